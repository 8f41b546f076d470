"""What a process is given to run with: CPUs, GPUs, open files, and what a launcher says in the environment."""

import os
import subprocess
from contextlib import suppress

from utils.errors import UserError

try:
    import resource
except ImportError:  # not on Windows
    resource = None

# What a run has open at once: libraries, its lock, and a file for each thread that reads.
OPEN_FILES = 64
# What torch and accelerate read: of torchrun and accelerate launch, and of MPI.
LAUNCHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# What Slurm says of GPUs, and each one's value for none; where a cluster hides those that a job did not ask for, so is CUDA's.
SLURM_GPUS = {"SLURM_JOB_GPUS": "", "SLURM_STEP_GPUS": "", "SLURM_GPUS_ON_NODE": "0"}
HIDDEN = ("", "-1", "NoDevFiles")


def available_cpus():
    """CPUs that this process may use: those of its Slurm job or container, not all of the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require_open_files(num_workers):
    """Raise this process's limit of open files as far as it may itself.

    Raises:
        UserError: if that is too low for a run with ``num_workers`` threads that read wavs.
    """
    if resource is None:
        return
    needed, (soft, hard) = OPEN_FILES + num_workers, resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"a process may have {hard} files open here (ulimit -n), and a run with --num_workers {num_workers} needs "
            f"{needed}: start it from a shell with a higher limit"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def require_granted_gpu(environment, cuda_version):
    """Check, where torch can use no GPU, that none was granted: training on the CPU would take days for hours.

    Args:
        environment: a mapping such as ``os.environ``.
        cuda_version: the CUDA version that torch is built for, ``torch.version.cuda``; None if for none.

    Raises:
        UserError: if CUDA_VISIBLE_DEVICES or Slurm names a GPU, or nvidia-smi lists one, and CUDA_VISIBLE_DEVICES hides none.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible in HIDDEN:
        return
    granted = [f"CUDA_VISIBLE_DEVICES={visible}"] if visible else []
    granted += [
        f"{name}={environment[name]}" for name, none in SLURM_GPUS.items() if environment.get(name, none) not in ("", none)
    ]
    cards = []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):  # it is not there, or finds no card
        cards = subprocess.run(
            query, env=dict(environment), capture_output=True, text=True, timeout=60, check=True
        ).stdout.splitlines()
    if not granted and not cards:
        return
    card, _, driver = cards[0].rpartition(", ") if cards else ("", "", "unknown")
    built = f"built for CUDA {cuda_version}" if cuda_version else "built without CUDA"
    raise UserError(
        f"a GPU is granted ({[*granted, card][0]}), and torch can use none: the driver's version is {driver}, this torch is "
        f"{built}; see that they fit each other, or train on the CPU all the same with --cpu"
    )


def require_whole_launch(environment):
    """Check what a launcher has said in the environment, which makes accelerate wait for other processes.

    Args:
        environment: a mapping such as ``os.environ``.

    Raises:
        UserError: if this process is taken for one of several and there is no word of where to find the others (as variables
            that an earlier job has left say it), or if it is none of them.
    """
    said = {name: environment[name] for name in (*LAUNCHER, *MPI) if name in environment}
    by_mpi = any(int(said.get(name, 1)) > 1 for name in MPI)
    if int(said.get("LOCAL_RANK", -1)) == -1 and int(said.get("WORLD_SIZE", 1)) <= 1 and not by_mpi:
        return
    # accelerate gives MPI's processes their ranks and a port itself.
    needed = ("MASTER_ADDR",) if by_mpi else ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
    lacking = [name for name in needed if not environment.get(name)]
    if lacking:
        told = " ".join(f"{name}={value}" for name, value in said.items())
        raise UserError(
            f"{told} in the environment makes this process one of several, and there is no {' and no '.join(lacking)}: "
            f"'unset {' '.join(said)}' if an earlier job left it, or start it with torchrun or accelerate launch"
        )
    if not by_mpi and int(said["RANK"]) not in range(int(said["WORLD_SIZE"])):  # the others would wait for it for ever
        raise UserError(
            f"RANK={said['RANK']} and WORLD_SIZE={said['WORLD_SIZE']} in the environment: ranks are from 0 to below it"
        )
