"""Settings of the LM-TAD teacher and its training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hoser_kd.config.section import EXECUTION_ONLY, Section


class TeacherConfig(Section):
    """The LM-TAD teacher: imported from `distill.ckpt_path` if it is set, otherwise trained in the pipeline."""

    example: ClassVar[str] = "{preset: small}"

    preset: Literal["tiny", "small", "published"] = "small"
    """Model size. tiny: 2 layers of width 64; small: 4 of 256; published: 8 of 768 with 12 heads."""
    n_layer: int | None = Field(None, ge=1)
    """Number of layers; overrides the preset."""
    n_head: int | None = Field(None, ge=1)
    """Number of attention heads; overrides the preset."""
    n_embd: int | None = Field(None, ge=1)
    """Embedding width; overrides the preset."""
    block_size: int | None = Field(None, ge=4)
    """Maximum sequence length including special tokens. None: the longest trip of the corpus + 2."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout rate."""
    max_epochs: int = Field(30, ge=1)
    """Maximum number of passes over the training trips."""
    patience: int = Field(5, ge=1)
    """Stop after this many epochs without an improvement of the validation loss."""
    batch_size: int = Field(32, ge=1)
    """Trips per optimizer step."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak learning rate of AdamW."""
    min_learning_rate: float = Field(3e-5, ge=0)
    """Learning rate at the end of the cosine schedule."""
    warmup_ratio: float = Field(0.08, ge=0, lt=1)
    """Share of the steps used for linear warm-up of the learning rate (published: 5,000 of 60,000)."""
    beta2: float = Field(0.99, gt=0, lt=1)
    """Second beta of AdamW (published: 0.99 or 0.9)."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay, applied to matrices only."""
    max_norm: float = Field(1.0, gt=0)
    """Maximum gradient norm; larger gradients are clipped."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of training: auto takes bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU."""
    destination_prefix: bool = False
    """Begin every sequence with the token of its last road, so that labels and synthetic trips know the destination."""
    compile: bool = False
    """Compile the model with torch.compile."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Random seed of weight initialization, batch order and dropout."""
    num_processes: int = Field(1, ge=1, json_schema_extra={EXECUTION_ONLY: True})
    """Processes that train the teacher in parallel, one GPU each if GPUs are used; each batch is divided among them, so
    the result is equal up to rounding and the random numbers of dropout."""

    @property
    def frame(self) -> int:
        """Number of tokens of a sequence besides those of its trip: SOT, EOT and the destination."""
        return 3 if self.destination_prefix else 2
