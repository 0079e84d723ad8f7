"""Names that other libraries use for the options of this package."""

from __future__ import annotations

from collections.abc import Collection

# names from the scripts of transformers and accelerate, and from stable-baselines3
OURS = {
    "learning_rate": "lr", "per_device_train_batch_size": "batch_size", "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate", "num_train_epochs": "epochs", "num_epochs": "epochs",
    "max_steps": "steps", "max_train_steps": "steps", "total_timesteps": "episodes", "warmup_ratio": "warmup",
    "warmup_steps": "warmup", "lr_scheduler_type": "schedule", "max_grad_norm": "gradient_clipping",
    "bf16": "precision", "fp16": "precision", "adam_beta1": "adam_betas", "adam_beta2": "adam_betas",
    "max_seq_length": "max_length", "max_source_length": "max_length", "model_name_or_path": "model",
    "teacher_model": "teacher", "student_model": "student", "teacher_name_or_path": "teacher",
    "student_name_or_path": "student",
    "dataset_name": "data", "train_file": "data", "validation_file": "dev_data", "task_name": "task",
    "max_train_samples": "max_examples", "output_dir": "output", "overwrite_output_dir": "overwrite",
    "resume_from_checkpoint": "resume", "torch_compile": "compile", "num_workers": "workers", "n_envs": "workers",
    "alpha": "kd_weight", "num_layers": "student_layers",
}  # fmt: skip


def ours(name: str, known: Collection[str]) -> str | None:
    """Returns this package's name for an option of another library; None if there is none.

    Args:
        name: the given name, with underscores.
        known: names of the existing options.
    """
    found = OURS.get(name)
    return found if found in known else None
