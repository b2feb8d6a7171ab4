"""Networks that were not written for Offramp, as models whose samples leave at exits."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from offramp.models.base import ExitOutput, MultiExitModel


class Staged(MultiExitModel):
    """A network that consists of stages, with a head after each of them.

    Parameters
    ----------
    stages : iterable of Module
        For example an `nn.Sequential`. The first stage reads the input, and each other stage reads the output of the
        one before it: a tensor or a tuple of tensors, with the samples as their first dimension.
    heads : iterable of Module
        One for each stage. A head reads the output of its stage and returns logits (B, C).

    Raises
    ------
    ValueError
        If there are no stages, or if the numbers of stages and heads differ.
    """

    def __init__(self, stages: Iterable[nn.Module], heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)
        self.n_exits = len(self.stages)
        if not self.n_exits or len(self.heads) != self.n_exits:
            raise ValueError(f"{self.n_exits} stages and {len(self.heads)} heads; expected one head for each stage")

    def stage(self, i: int, *state: Tensor) -> ExitOutput:
        output = self.stages[i](*state)
        state = output if isinstance(output, tuple) else (output,)
        logits = self.heads[i](*state)
        return ExitOutput(getattr(logits, "logits", logits), state)  # transformers models return an object


class CascadeModel(MultiExitModel):
    """Separate models that run one after another, each on the original input.

    Parameters
    ----------
    models : sequence of Module
        Each is a `MultiExitModel`, or any module that returns logits (B, C).
    preparations : sequence of callable, optional
        One for each model: a function from the input (B, …) to the input of the model, for example a resize and a
        normalisation. None: no preparation.

    Raises
    ------
    ValueError
        If there are no models, if the numbers of models and preparations differ, or if a model defines only `exits`.
    """

    def __init__(
        self, models: Sequence[nn.Module], preparations: Sequence[Callable[[Tensor], Tensor] | None] | None = None
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(
            model if isinstance(model, MultiExitModel) else Staged([nn.Identity()], [model]) for model in models
        )
        self.preparations = [None] * len(self.models) if preparations is None else list(preparations)
        if not len(self.models) or len(self.preparations) != len(self.models):
            raise ValueError(
                f"{len(self.models)} models and {len(self.preparations)} preparations; expected one for each model"
            )
        for k, model in enumerate(self.models, start=1):
            if not model.has_stages:
                raise ValueError(f"model {k}, a {type(model).__name__}, defines exits only; expected stage(i, *state)")
        self.places = [(k, j) for k, model in enumerate(self.models) for j in range(model.n_exits)]
        self.n_exits = len(self.places)

    def prepare(self, k: int, x: Tensor) -> Tensor:
        """Return the input of model k, counted from 0."""
        prepare = self.preparations[k]
        return x if prepare is None else prepare(x)

    def stage(self, i: int, *state: Tensor) -> ExitOutput:
        x, *inner = state  # the input stays part of the state, because later models read it
        k, j = self.places[i]
        output = self.models[k].stage(j, *(inner if j else (self.prepare(k, x),)))
        ends = j + 1 == self.models[k].n_exits
        return ExitOutput(output.logits, (x,) if ends else (x, *output.state))

    def keep(self, state: tuple[Tensor, ...], rows: Tensor, length: int | None = None) -> tuple[Tensor, ...]:
        x, *inner = state
        if x.ndim == 2:  # texts
            x = x[:, :length]
        return (*super().keep((x,), rows), *super().keep(tuple(inner), rows))

    def lengths(self, x: Tensor) -> Tensor | None:
        return self.models[0].lengths(x) if self.preparations[0] is None else None

    def blank(self, shape: tuple[int, ...]) -> Tensor:
        return self.models[0].blank(shape)
