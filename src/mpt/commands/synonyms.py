"""What other programs call our options, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

# our option -> its names elsewhere, in lower case with underscores; the first option that a command has is meant
_OPTIONS: dict[tuple[str, ...], str] = {
    (
        "prune",
    ): "sparsity prune_rate prune_ratio prune_fraction pruning pruning_rate pruning_ratio amount p remove removed",
    ("width",): "width_mult width_multiplier width_factor multiplier channels_multiplier widen_factor wide",
    (
        "binary_activations",
    ): "binary_activation binact bin_act binarize_activations a_bits one_bit bnn sign_activations",
    ("learn_batchnorm",): "learn_bn bn batchnorm batch_norm affine train_bn plus_bn learned_batchnorm",
    ("epochs",): "epoch num_epochs n_epochs nepochs max_epochs max_epoch total_epochs num_train_epochs ep",
    ("batch",): "batch_size batchsize bs minibatch mini_batch train_batch_size global_batch_size per_device_batch_size",
    ("label_smoothing",): "smoothing smooth label_smooth",
    ("distill",): "teacher distillation kd knowledge_distillation teacher_path teacher_ticket distill_from",
    ("distill_weight",): "distill_alpha kd_weight kd_alpha",
    ("distill_temperature",): "distill_temp kd_temperature",
    ("select",): "keep_best best_epoch model_selection",
    ("seed",): "random_seed manual_seed rng seeds random_state",
    ("dense",): "dense_layers skip_layers exclude exclude_layers ignore_layers not_pruned unpruned",
    ("layers",): "trainable_layers train_layers unfreeze finetune_layers",
    ("model",): "arch architecture net network backbone model_name modelname",
    ("model.name",): "timm_model torchvision_model",
    ("data",): "dataset data_set dataset_name ds",
    (
        "data.root",
    ): "data_dir data_path datadir data_root dataroot dataset_path dataset_dir path folder root_dir images",
    ("data.image_size", "image_size"): "img_size imagesize input_size resolution size crop_size imsize",
    ("data.val_size",): "val validation validation_size validation_split val_split val_ratio val_fraction",
    ("data.test_size",): "test_split test_ratio test_fraction holdout",
    ("data.train_size",): "num_train subset max_train_samples train_samples num_samples samples",
    ("data.augment",): "augmentation augmentations auto_augment aug transform transforms",
    ("data.workers",): "num_workers nworkers n_workers dataloader_workers loader_workers threads num_threads jobs",
    ("data.noise_std",): "noise gaussian_noise sigma",
    ("method",): "algorithm algo strategy_name approach pruner",
    ("method.score_init",): "scores_init init_scores score_initialization",
    ("method.init",): "weight_init initializer initialization init_method",
    ("method.selection",): "prune_scope scope threshold_mode",
    ("method.power",): "power_propagation",
    ("optim",): "optimizer optimiser opt optim_name",
    ("optim.lr",): "learning_rate learningrate base_lr init_lr initial_lr max_lr eta rate step_size",
    ("optim.weight_decay",): "wd decay weightdecay l2 l2_reg",
    ("optim.momentum",): "mom beta",
    ("optim.schedule",): "scheduler lr_scheduler lr_schedule lr_policy sched scheduler_name",
    ("optim.warmup",): "warmup_epochs warm_up warmup_steps lr_warmup",
    ("optim.milestones",): "lr_milestones lr_steps decay_epochs steps_lr",
    ("optim.gamma",): "lr_gamma lr_decay decay_rate lr_factor",
    ("optim.clip_grad_norm",): "clip grad_clip clip_grad gradient_clip gradient_clip_val max_grad_norm max_norm",
    ("optim.accumulate",): "grad_accum accumulation_steps gradient_accumulation_steps accumulate_grad_batches accum",
    ("optim.averaging",): "average averager",
    ("trainer.devices",): "gpus gpu num_gpus n_gpus ngpus gpu_ids num_devices nproc_per_node world_size processes",
    ("trainer.accelerator", "accelerator"): "device",
    ("trainer.num_nodes",): "nodes nnodes n_nodes machines",
    ("trainer.strategy",): "distributed_backend",
    ("trainer.precision",): "dtype mixed_precision",
    ("trainer.sync_batchnorm",): "sync_bn syncbn",
    (
        "trainer.limit_batches",
    ): "limit_train_batches max_batches max_steps fast_dev_run steps num_steps iterations iters",
    ("trainer.progress", "progress"): "progress_bar enable_progress_bar tqdm",
    ("logger",): "log logging report_to tracker",
    ("logger.project",): "wandb_project",
    ("logger.entity",): "wandb_entity team",
    ("logger.mode",): "wandb_mode",
    ("hydra.run.dir", "out"): "out output output_dir outdir out_dir output_path save save_dir save_path savedir dir "
    "directory log_dir logdir exp_dir run_dir workdir work_dir run_name exp_name name experiment_name file",
    ("runs",): "runs_dir results results_dir save_root",
    ("recipe",): "preset config_name template",
    ("sweeps",): "experiment figure table",
    ("top",): "topk top_k k",
    ("per_class",): "perclass class_accuracy",
    ("json",): "format output_format",
    ("corruptions",): "corruption cifar10c cifar10_c robustness",
    ("control",): "baseline",
    ("engine",): "compile compiled runtime",
    ("in_channels",): "channels num_channels in_chans",
    ("report",): "write_report",
}
_SENTENCES = {  # names of what is no option
    "resume": "a run resumes by itself: repeat its command",
    "checkpoint": "a run resumes by itself: repeat its command",
    "ckpt": "a run resumes by itself: repeat its command",
    "ckpt_path": "a run resumes by itself: repeat its command",
    "restart": "a run resumes by itself: repeat its command",
    "load": "mpt-eval, mpt-predict and mpt-finetune take a ticket file as their first word",
    "pretrained": "a search keeps random weights, and trained ones have no place in it",
    "weights": "mpt-eval, mpt-predict and mpt-finetune take a ticket file as their first word",
    "density": "write prune=, which is 1 - density",
    "keep": "write prune=, which is 1 minus the fraction kept",
    "keep_ratio": "write prune=, which is 1 minus the fraction kept",
    "config": "--config-dir DIR adds a folder of your own configuration files",
    **dict.fromkeys(("print", "show_config", "print_config"), "--cfg job prints the configuration"),
    "cfg": "--cfg job prints the configuration",
    "debug": "--traceback shows where an error comes from, and --dry-run what a run would do",
    "dry_run": "write --dry-run",
    "help": "write --help",
    "depth": "the model says how deep it is, as in model=conv4 or model=cifar_resnet56",
    "patience": "a run trains for all its epochs; select=best_val keeps the best one",
    "early_stopping": "a run trains for all its epochs; select=best_val keeps the best one",
    "loss": "the loss is cross-entropy, which label_smoothing and data.augment=augmix change",
    "dropout": "an argument of a model is written model.NAME=VALUE",
    "temperature": "there is no temperature: the mask is exact in each step",
    "best": "write select=best_val with data.val_size=",
    "ddp": "write trainer.devices=2 for two processes, which mpt starts itself",
    "distributed": "write trainer.devices=2 for two processes, which mpt starts itself",
    "local_rank": "write trainer.devices=2 for two processes, which mpt starts itself",
    **dict.fromkeys(("amp", "fp16", "bf16", "half", "use_amp", "float16"), "write trainer.precision=bf16-mixed"),
    **dict.fromkeys(("cuda", "use_cuda", "use_gpu"), "write trainer.accelerator=gpu"),
    **dict.fromkeys(("cpu", "no_cuda"), "write trainer.accelerator=cpu"),
    **dict.fromkeys(("wandb", "use_wandb"), "write logger=wandb"),
    **dict.fromkeys(("tensorboard", "tb"), "write logger=tensorboard"),
    **dict.fromkeys(("verbose", "quiet", "silent"), "write trainer.progress=false for no progress bars"),
    **dict.fromkeys(("ema", "model_ema"), "write optim.averaging=ema"),
    "swa": "write optim.averaging=swa",
    "no_download": "write data.download=false",
    "offline": "write logger=wandb, which is offline unless logger.mode=online",
    "online": "write logger.mode=online",
}
_NAMES = {name: options for options, names in _OPTIONS.items() for name in names.split()}


def advice(name: str, known: Collection[str], *, value: str = "") -> str:
    """What to write instead of the unknown option ``name``; empty if nothing comes near.

    Args:
        name: as the user wrote it, in any case, with ``-`` or ``_``.
        known: the dotted names of the options that the command has.
        value: that the user gave.
    """
    plain = name.lower().replace("-", "_")
    last = plain.rpartition(".")[2]
    for word in dict.fromkeys((plain, last)):
        if match := next((option for option in _NAMES.get(word, ()) if option in known), None):
            return f"write {match}={value}"
        if word in known:
            return f"write {word}={value}"
        if (words := _SENTENCES.get(word)) and _applies(words, known):
            return words
        if groups := sorted(option for option in known if option.endswith(f".{word}")):
            return f"write {' or '.join(f'{option}={value}' for option in groups)}"
    near = nearest(plain, known) or nearest(last, known)
    return f"did you mean {near}?" if near else ""


def _applies(words: str, known: Collection[str]) -> bool:
    """False if ``words`` advise an option, or a flag of a run, that the command does not have."""
    if any(flag in words for flag in ("--cfg", "--dry-run")):
        return "hydra.run.dir" in known
    option = words.partition("write ")[2].partition("=")
    return not option[1] or option[0] in known


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The word of ``known`` that is nearest to ``word``, whatever the case; None if none is near."""
    spelt = {option.lower(): option for option in known}
    near = difflib.get_close_matches(word.lower(), spelt, n=1, cutoff=cutoff)
    return spelt[near[0]] if near else None
