"""Korean sentences of the demonstration: invented, short, and randomly composed.

A sentence is `[interjection] [filler] [time] [context] expression`, as in "아까 전화를 받았는데 정말 화가 나". Only the
interjection and the expression can carry an emotion; the context ("아까 전화를 받았는데") is independent of it. Nothing here is
taken from a corpus.
"""


def phrases(text):
    """Split a text at its commas into a tuple of phrases."""
    return tuple(phrase.strip() for phrase in text.split(","))


# Expressions are in the intimate style; a final 요 makes them polite. The acted corpus draws from the beginning of each
# list, the free talk from the end, and both share the middle: see the slices in corpora.py.
EXPRESSIONS = {
    "angry": phrases("""
        정말 화가 나, 당장 그만둬, 더는 못 참겠어, 나를 뭘로 보는 거지, 사람을 무시하잖아, 두 번 다시 보기 싫어,
        왜 자꾸 거짓말을 하지, 책임을 져야지, 말이 되는 소리를 해, 분해서 잠이 안 와, 너무 짜증이 나, 열이 확 오르네,
        진짜 억울해, 어이가 없네, 약속을 안 지키잖아, 따지고 싶었어, 성질이 나더라고, 목소리가 커지더라고,
        신경질이 났어, 한마디 하고 싶었어
    """),
    "disgust": phrases("""
        정말 역겨워, 보기만 해도 구역질이 나, 저리 치워, 더러워서 못 만지겠어, 비열한 짓이야, 꼴도 보기 싫어,
        치가 떨려, 냄새가 지독해, 소름이 끼치게 징그러워, 토할 것 같아, 너무 지저분해, 비위가 상해, 입맛이 뚝 떨어져,
        좀 느끼하더라고, 찝찝하더라고, 불쾌했어, 거부감이 들었어, 손도 대기 싫더라고, 곰팡이가 피었더라고, 질색이야
    """),
    "fear": phrases("""
        정말 무서워, 제발 살려 줘, 누가 따라오는 것 같아, 온몸이 떨려, 숨을 쉴 수가 없어, 거기 누구 있어,
        혼자 두고 가지 마, 도망쳐야 해, 심장이 멎을 것 같아, 큰일이 날 것 같아, 너무 겁이 나, 불안해서 못 있겠어,
        등골이 오싹해, 식은땀이 나더라고, 눈을 못 뜨겠더라고, 조마조마했어, 걱정돼서 잠을 못 잤어, 가슴이 철렁했어,
        긴장돼서 떨었어, 밤길이 두렵더라고
    """),
    "happy": phrases("""
        정말 행복해, 하늘을 나는 것 같아, 드디어 해냈어, 꿈이 이루어졌어, 우리가 이겼어, 이보다 좋을 수 없어, 사랑해,
        네가 자랑스러워, 춤이라도 추고 싶어, 웃음이 멈추지 않아, 너무 기뻐, 기분이 최고야, 정말 신나, 재밌더라고,
        맛있어서 좋았어, 뿌듯하더라고, 설레더라고, 되게 고마웠어, 많이 웃었어, 보람이 있더라고
    """),
    "neutral": phrases("""
        서류를 두고 갈게, 열 시에 시작해, 문은 저쪽에 있어, 이름을 적으면 돼, 내일 다시 올게, 자리에 앉아,
        순서대로 하면 돼, 여기서 기다릴게, 창문을 닫아 둘게, 전화번호를 알려 줄게, 그냥 그래, 별일 없었어, 보통이야,
        평소처럼 했어, 집에 있었어, 버스로 다녀, 그런 편이야, 일주일에 한 번쯤 해, 반반인 것 같아, 커피를 마셨어
    """),
    "sad": phrases("""
        정말 슬퍼, 눈물이 멈추지 않아, 이제 다 끝났어, 네가 보고 싶어, 나만 혼자 남았어, 가슴이 찢어져,
        다시는 볼 수 없어, 왜 나를 떠났어, 살아갈 힘이 없어, 미안하다는 말도 못 했어, 너무 외로워, 마음이 아파,
        허전해서 울었어, 속상하더라고, 우울했어, 안타깝더라고, 그립더라고, 서운했어, 기운이 없더라고, 쓸쓸하더라고
    """),
    "surprise": phrases("""
        정말 깜짝 놀랐어, 네가 왜 여기 있어, 믿을 수가 없어, 이게 꿈은 아니지, 살아 있었네, 어떻게 알았어,
        그게 사실이야, 갑자기 나타났어, 눈을 의심했어, 말도 안 돼, 상상도 못 했어, 이럴 수가 있어, 전혀 몰랐어,
        뜻밖이더라고, 신기하더라고, 예상 못 했어, 입이 딱 벌어졌어, 소름이 돋았어, 처음 알았어, 눈이 커졌어
    """),
}

# Compatible with every emotion: only the voice cues it.
OPEN_EXPRESSIONS = phrases("""
    그렇게 됐어, 뭐라고 해야 할까, 말로 다 못 하겠어, 이제 어떡하지, 내 말 듣고 있어, 아직도 생각나, 그게 전부야,
    나도 모르겠어, 그런 일이 있었어, 지금도 그래, 자꾸 생각이 나더라고, 그렇더라고, 어쩔 수 없지,
    그 얘기를 하고 싶었어, 그때는 그랬어, 또 그럴 것 같아
""")

INTERJECTIONS = {
    "angry": ("야", "참 나"),
    "disgust": ("으", "윽"),
    "fear": ("흐", "아아"),
    "happy": ("와", "하하"),
    "neutral": ("네", "자"),
    "sad": ("하아", "흑"),
    "surprise": ("헉", "어머"),
}
OPEN_INTERJECTIONS = ("아", "저기", "있잖아", "어")
FILLERS = ("음", "그니까", "뭐랄까", "약간", "이제 막", "뭐")

TIMES = ("어제", "아까", "오늘", "방금", "아침에", "지난주에", "저녁에", "조금 전에", "며칠 전에", "주말에")

# From staged scenes (first) to everyday talk (last).
CONTEXTS = phrases("""
    그 편지를 읽었는데, 네 말을 들었는데, 그 사람이 돌아왔는데, 병원에 갔는데, 문을 열었는데, 비밀을 들었는데,
    형을 만났는데, 그 집에 들어갔는데, 재판이 끝났는데, 기차를 탔는데, 전화를 받았는데, 친구를 만났는데,
    사진을 봤는데, 시험 결과를 봤는데, 엄마랑 얘기했는데, 회의를 했는데, 뉴스를 봤는데, 영화를 봤는데, 식당에 갔는데,
    여행을 갔는데, 알바를 했는데, 버스를 탔는데, 게임을 했는데, 수업을 들었는데, 동네를 걸었는데, 물건을 샀는데
""")


def compose(rng, emotion, style):
    """Compose a sentence (str without a full stop) that expresses `emotion` with the probability given in `style`.

    `rng` is a numpy Generator; `style` a dict of `explicit` (probability that the expression conveys the emotion),
    `exclaim` (of an interjection), `filler`, `time`, `context` and `polite` (also probabilities), `expressions` and
    `contexts` (slices of the lists above).
    """

    def pick(items):
        return items[rng.integers(len(items))]

    words = []
    says_it = rng.random() < style["explicit"]
    if rng.random() < style["exclaim"]:
        words.append(pick(INTERJECTIONS[emotion] if says_it and rng.random() < 0.7 else OPEN_INTERJECTIONS))
    if rng.random() < style["filler"]:
        words.append(pick(FILLERS))
    if rng.random() < style["context"]:
        if rng.random() < style["time"]:
            words.append(pick(TIMES))
        words.append(pick(CONTEXTS[style["contexts"]]))
    expression = pick(EXPRESSIONS[emotion][style["expressions"]] if says_it else OPEN_EXPRESSIONS)
    if rng.random() < style["polite"]:
        expression = polite(expression)
    return " ".join(words + [expression])


def polite(expression):
    """The expression in the polite style, with 요, or 이에요 or 예요 for the copula."""
    if expression.endswith("이야"):
        return expression[:-2] + "이에요"
    if expression.endswith("야"):
        return expression[:-1] + "예요"
    return expression + "요"
