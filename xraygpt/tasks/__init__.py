"""Tasks, by the name that `run.task` uses; importing this package registers them."""

from xraygpt.common.config import Config
from xraygpt.common.registry import registry
from xraygpt.tasks.base_task import BaseTask
from xraygpt.tasks.image_text_pretrain import ImageTextPretrainTask
from xraygpt.tasks.report_generation import ReportGenerationTask

__all__ = ["BaseTask", "ImageTextPretrainTask", "ReportGenerationTask", "setup_task"]


def setup_task(cfg: Config) -> BaseTask:
    """The task that `run.task` names."""
    name = cfg.run_cfg.task
    return registry.get_task_class(name).setup_task(cfg=cfg)
