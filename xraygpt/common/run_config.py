"""The `run:` block of a configuration: every key, its unit, and the reason for its default."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from xraygpt.common.schema import name_field, names_field, path_field


@dataclass
class GenerationConfig:
    """How reports are written by `report_generation`, `xraygpt generate`, `xraygpt evaluate` and `demo.py`."""

    prompt: str = ""
    """The question put to the model; "" takes the first line of the model's prompt file."""
    max_new_tokens: int = 160
    """Longest report, in tokens."""
    min_new_tokens: int = 1
    """Shortest report, in tokens: holds back the end-of-text token, not the model's end symbol."""
    num_beams: int = 1
    """1 is greedy search: the same report each time."""
    do_sample: bool = False
    """Draw each token at random instead of taking the likeliest."""
    top_p: float = 0.9
    """Sampling only: draw from the smallest set of tokens with this much probability."""
    temperature: float = 1.0
    """Sampling only: above 0; lower is closer to greedy."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that already occurred less likely."""
    length_penalty: float = 1.0
    """Beam search only: above 0 favours longer reports."""
    stop_repeats: bool = True
    """End a report that repeats the same tokens again and again; without beams."""


@dataclass
class ScoringConfig:
    """How the reports of a test are scored (`report_generation`); a validation during training has no intervals and no baselines."""

    resamples: int = 1000
    """Resamples of the bootstrap over studies; 0: no intervals."""
    confidence: float = 0.95
    """Mass of the intervals."""
    seed: int = 42
    """Of the resampling, and of the baselines that draw at random."""
    cases: int = 8
    """Cases in each group on the page: the least faithful, the most faithful, random ones."""
    model_scores: dict[str, str] = field(default_factory=dict)
    """Scores that need a model: name → path of its weights."""
    nearest_images: int = 2000
    """Training images, evenly spaced, among which the nearest-training baseline looks for the most similar; 0: no such baseline."""
    export: str = ""
    """Folder that gets the files which other scoring tools read; "": none."""


@dataclass
class FeatureCacheConfig:
    """What frozen vision parts make of each image is computed once (docs/training.md)."""

    path: str | None = None
    """Folder of the cache, which runs may share; none (`run.feature_cache.path=`): no cache."""
    views: int = 1
    """1: training sees whole images, as evaluation does. More: so many random crops of each, of which the order of training picks one."""
    dtype: str = "fp16"
    """fp16 (48 kB a view with BLIP-2's Q-Former) or fp32."""


@dataclass
class RunConfig:
    """How training and evaluation run. Iterations count micro-batches, as in the LAVIS family."""

    task: str = MISSING
    """Registered task: "image_text_pretrain" (loss) or "report_generation" (loss in training, written reports in evaluation)."""
    runner: str = "runner_base"
    """Registered runner."""
    imports: list[str] = field(default_factory=list)
    """Python modules that register your own classes, imported first."""

    # What is done
    max_epoch: int = 1
    """Number of epochs."""
    iters_per_epoch: int | None = None
    """Iterations in an epoch; none: one pass over the training data."""
    batch_size_train: int = 1
    """Samples an iteration and rank."""
    batch_size_eval: int = 8
    """Samples a batch in evaluation, each rank."""
    accum_grad_iters: int = 1
    """Iterations whose gradients make one update, equal to one batch that many times as large."""
    group_by_length: bool = False
    """Make each update of texts of similar length. Saves time with language models whose rows are padded (docs/performance.md)."""
    train_splits: list[str] = names_field("train")
    """Splits to train on."""
    valid_splits: list[str] = names_field()
    """Splits evaluated after each epoch; "val" chooses checkpoint_best.pth."""
    test_splits: list[str] = names_field()
    """Splits evaluated at the end with the best checkpoint."""
    evaluate: bool = False
    """Only evaluate `test_splits`, do not train."""

    # Validation by written reports (report_generation)
    metrics: list[str] = field(default_factory=list)
    """Metrics, or families of them, computed at each validation; none: rouge_l, bleu_4 and finding_f1."""
    agg_metric: str = "finding_f1_macro"
    """The one among them that chooses checkpoint_best.pth, or "loss"; where lower is better, the lowest wins."""
    max_valid_reports: int = 0
    """Reports written at each validation, evenly spaced over the split; 0: all. The loss is always that of the whole split."""
    num_logged_reports: int = 3
    """Written reports shown in the log at each validation. References are patient data and are not logged."""

    # Optimisation
    init_lr: float = 1e-4
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the schedule."""
    warmup_lr: float = -1.0
    """Learning rate at iteration 0; negative: start at init_lr."""
    warmup_steps: int = 0
    """Iterations of linear warm-up; they may span epochs."""
    lr_sched: str = "linear_warmup_cosine_lr"
    """Registered schedule."""
    lr_decay_rate: float | None = None
    """Factor an epoch, for linear_warmup_step_lr."""
    weight_decay: float = 0.05
    """AdamW decay of matrices; biases and norms have none."""
    beta2: float = 0.999
    """AdamW's second moment."""
    max_grad_norm: float = 0.0
    """Clip the gradient's norm to this; 0: no clipping (its norm is logged all the same)."""
    amp: bool = True
    """Mixed precision on CUDA: bf16 where the device has it, else fp16 with a loss scaler. The CPU runs in fp32."""
    max_nonfinite_steps: int = 5
    """Updates in a row that may be skipped for a non-finite loss or gradient before the run stops."""
    spike_window: int = 50
    """Losses before it with whose median each loss is compared; 0: none is. Fifty follow the loss as it falls."""
    spike_factor: float = 2.0
    """A loss above this many times that median is logged as a spike, and counted. Nothing else happens: some are harmless."""

    # Data that cannot be used
    on_bad_sample: str = "stop"
    """"stop": a missing or damaged image, or an annotation that does not parse, ends the run. "skip": the next sample of the training order
    takes its place, and bad_samples.jsonl lists it. An evaluation always stops: numbers over other samples are not comparable."""
    max_bad_share: float = 0.01
    """"skip" only: the run stops when more than this share of the training samples seen, at least 100, could not be used."""

    # Features of frozen vision parts, kept on disk
    feature_cache: FeatureCacheConfig = field(default_factory=FeatureCacheConfig)
    """Where they are kept; off unless it has a path."""

    # Machine
    device: str = "auto"
    """"auto" (CUDA if there is one), "cuda", "cuda:1" or "cpu"."""
    num_workers: int = 2
    """Data-loading processes for each rank; 0: load in the training process."""
    seed: int = 42
    """Decides initial weights, data order, crops and prompts."""
    distributed: bool = True
    """False: a single process, whatever torchrun or SLURM say."""
    dist_url: str = "env://"
    """Where the ranks meet."""
    dist_timeout_minutes: float = 30.0
    """A rank that waits this long for another fails instead of hanging."""
    use_dist_eval_sampler: bool = True
    """Split evaluation among the ranks; False: every rank evaluates everything."""

    # Output
    output_dir: str = "output"
    """Folder under the working directory that holds the runs."""
    job_id: str = name_field()
    """Name of this run's folder (letters, digits, ".", "_", "-"; no folder in it); "": the time it started."""
    log_freq: int = 50
    """Iterations between two lines of the log."""
    save_every_iters: int = 0
    """Iterations between two saves inside an epoch (checkpoint_step{N}.pth); 0: none for this reason. Each epoch's end is saved anyway."""
    save_every_minutes: float = 15.0
    """Minutes between two saves; 0: none for this reason. A quarter of an hour is what a crash then costs at most."""
    keep_step_checkpoints: int = 2
    """How many of the newest checkpoint_step{N}.pth stay: should the last be damaged, there is the one before. At least 1."""
    save_retry_minutes: float = 10.0
    """How long the end of a run waits for a full or vanished disk before it fails; keep it below dist_timeout_minutes."""
    resume_ckpt_path: Any = path_field(default=None, how_to_get='Give a checkpoint of the run to continue, or "auto" for its newest.')
    """A checkpoint to continue from exactly, or "auto": the run folder's newest good one if it has one (train.py --resume)."""
    resume_allow: list[str] = field(default_factory=list)
    """Names of settings that may differ from the checkpoint's, besides "data" and "llm" (train.py --resume-allow)."""
    tensorboard: bool = False
    """Also write TensorBoard events to the run's folder."""
    progress_bar: bool = True
    """Show a progress bar when the output is a terminal."""

    known_images: str | None = None
    """For asking and answering: known_images.safetensors of an `xraygpt evaluate`; an image unlike the training images is doubted. None
    (`run.known_images=` on the command line): none is."""

    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How reports are written."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    """How the reports of a test are scored."""
