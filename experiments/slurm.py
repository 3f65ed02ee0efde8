"""Machines of SLURM for `python -m experiments.all --ray`: each job joins a Ray cluster and works until that one ends.

ray start --head --num-cpus 0 --num-gpus 0 --port 6379 --disable-usage-stats
python -m experiments.slurm --address "$(hostname -i):6379" --jobs 8 --sbatch partition gpu
python -m experiments.all --ray auto --preset paper
ray stop
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tyro
from rich.console import Console

from experiments.protocol import command
from tmu_jax.command.parsing import parsed


@dataclasses.dataclass(frozen=True)
class Options:
    """Submit jobs that lend their machines to a Ray cluster, until it ends or their time is over.

    The cluster may be started before or after, and jobs may be added at any time.
    """

    address: str
    """HOST:PORT of the cluster, as `ray start --head` says it."""
    jobs: int = 1
    """Jobs to submit, a machine each."""
    gpus: int = 1
    """GPUs of each. 0: it works on its cores."""
    cores: int = 8
    """Cores of each."""
    hours: float = 24.0
    """Time of each; what it does not finish goes on in another."""
    sbatch: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further options of sbatch, as pairs: partition gpu account mylab. Default: none."""
    logs: pathlib.Path = pathlib.Path("runs/slurm")
    """Folder for what the jobs print; every machine must see it."""
    cluster: Literal["slurm", "local"] = "slurm"
    """local: processes of this machine in the place of jobs, to try it."""


def join(address: str, gpus: int, cores: int) -> int:
    """Lends this machine to a Ray cluster until it ends; returns the exit status of Ray's part here."""
    ray = pathlib.Path(sysconfig.get_path("scripts")) / "ray"
    lent = ["--num-gpus", str(gpus), "--num-cpus", str(cores)]
    environment = {"RAY_USAGE_STATS_ENABLED": "0", **os.environ}
    return subprocess.run([ray, "start", "--address", address, *lent, "--block"], env=environment).returncode


def submit(options: Options) -> list[Any]:
    """Submits the jobs.

    Returns:
      Them, as submitit has them.

    Raises:
      ImportError: submitit is not installed.
      ValueError: for numbers that no job can have.
      RuntimeError: SLURM is not there, or refuses.
    """
    for name, least in (("jobs", 1), ("gpus", 0), ("cores", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"{name}={getattr(options, name)} must be at least {least}")
    if not 1 / 60 <= options.hours < float("inf"):
        raise ValueError(f"hours={options.hours} must be at least a minute's (0.017)")
    try:
        import submitit
    except ImportError as error:
        raise ImportError(
            f"jobs are submitted by submitit, which cannot be imported ({error}); install it by pip install "
            "'tmu-jax[slurm]'"
        ) from error
    executor = submitit.AutoExecutor(options.logs, cluster=options.cluster)
    executor.update_parameters(
        name="tmu-jax",
        timeout_min=round(60 * options.hours),
        cpus_per_task=options.cores,
        gpus_per_node=options.gpus or None,
        slurm_additional_parameters=dict(options.sbatch),
    )
    each = [[value] * options.jobs for value in (options.address, options.gpus, options.cores)]
    return list(executor.map_array(join, *each))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    try:
        given = None if arguments is None else list(arguments)
        options = parsed(lambda: tyro.cli(Options, args=given, prog="python -m experiments.slurm"))
        if options is None:
            return 0
        jobs = submit(options)
    except (*command.ERRORS, RuntimeError) as error:
        return command.complain(error)
    numbers = " ".join(str(job.job_id) for job in jobs)
    Console().print(f"submitted {len(jobs)}: {numbers}; what they print is in {options.logs}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
