"""Runners, by the name that `run.runner` uses; importing this package registers them."""

from xraygpt.runners.runner_base import RunnerBase, new_job_id

__all__ = ["RunnerBase", "new_job_id"]
