"""The resources of a process: CPUs, GPUs, open files, and a launcher's environment variables."""

import os
import subprocess
from contextlib import suppress

from utils.errors import UserError

try:
    import resource
except ImportError:  # not on Windows
    resource = None

# Files that a run has open at once, such as libraries and its lock, in addition to one per loader thread.
OPEN_FILES = 64
# Variables that torch and accelerate read: set by torchrun and accelerate launch, and by MPI.
LAUNCHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# Slurm's variables for GPUs, with the value that means none; clusters that hide other GPUs set CUDA_VISIBLE_DEVICES likewise.
SLURM_GPUS = {"SLURM_JOB_GPUS": "", "SLURM_STEP_GPUS": "", "SLURM_GPUS_ON_NODE": "0"}
HIDDEN = ("", "-1", "NoDevFiles")


def available_cpus():
    """Number of CPUs that this process may use, limited by its Slurm job or container."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require_open_files(num_workers):
    """Raise this process's limit of open files as far as needed.

    Raises:
        UserError: if the hard limit is too low for a run with ``num_workers`` loader threads.
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
    """Check, if torch cannot use a GPU, that none was granted: training on the CPU would take days instead of hours.

    Args:
        environment: a mapping such as ``os.environ``.
        cuda_version: the CUDA version of the torch build, ``torch.version.cuda``; None without CUDA.

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
    with suppress(OSError, subprocess.SubprocessError):  # not installed, or no GPU found
        cards = subprocess.run(
            query, env=dict(environment), capture_output=True, text=True, timeout=60, check=True
        ).stdout.splitlines()
    if not granted and not cards:
        return
    card, _, driver = cards[0].rpartition(", ") if cards else ("", "", "unknown")
    built = f"built for CUDA {cuda_version}" if cuda_version else "built without CUDA"
    raise UserError(
        f"a GPU is granted ({[*granted, card][0]}), but torch cannot use it: the driver's version is {driver}, this torch is "
        f"{built}; install versions that match, or train on the CPU anyway with --cpu"
    )


def require_whole_launch(environment):
    """Check a launcher's variables in the environment, which make accelerate wait for other processes.

    Args:
        environment: a mapping such as ``os.environ``.

    Raises:
        UserError: if the variables declare several processes but not how to reach the others (such as leftovers of an earlier
            job), or if the rank is out of range.
    """
    found = {name: environment[name] for name in (*LAUNCHER, *MPI) if name in environment}
    by_mpi = any(int(found.get(name, 1)) > 1 for name in MPI)
    if int(found.get("LOCAL_RANK", -1)) == -1 and int(found.get("WORLD_SIZE", 1)) <= 1 and not by_mpi:
        return
    # accelerate gives MPI's processes their ranks and a port itself.
    needed = ("MASTER_ADDR",) if by_mpi else ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
    lacking = [name for name in needed if not environment.get(name)]
    if lacking:
        listed = " ".join(f"{name}={value}" for name, value in found.items())
        raise UserError(
            f"{listed} in the environment makes this process one of several, and there is no {' and no '.join(lacking)}: "
            f"'unset {' '.join(found)}' if an earlier job left it, or start it with torchrun or accelerate launch"
        )
    if not by_mpi and int(found["RANK"]) not in range(int(found["WORLD_SIZE"])):  # the others would wait for it forever
        raise UserError(
            f"RANK={found['RANK']} and WORLD_SIZE={found['WORLD_SIZE']} in the environment: ranks are 0 to WORLD_SIZE - 1"
        )
