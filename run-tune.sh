#!/usr/bin/env bash
# Trials
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
show_help
