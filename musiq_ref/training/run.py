"""The training loop: from settings and a stream of examples to a checkpoint, resumable to the bit."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from musiq_ref.backend import NUMPY, Array, Backend, get_backend, namespace, to_host
from musiq_ref.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens, tokens_for
from musiq_ref.model.parameters import EndToEnd, Params, flatten, init_params, map_params
from musiq_ref.team import ONE_THREAD
from musiq_ref.training.folder import Files, claimed
from musiq_ref.training.initial import fit_to_images
from musiq_ref.training.log import Log
from musiq_ref.training.optimizers import OPTIMIZERS, clip_by_global_norm, ema
from musiq_ref.training.parallel import World, world_gradient
from musiq_ref.training.progress import Progress
from musiq_ref.training.schedules import SCHEDULES
from musiq_ref.training.settings import Settings
from musiq_ref.training.state import State, TrainingError, fold_targets, load_state, save_state, upload
from musiq_ref.training.step import Rates
from musiq_ref.training.stream import Stream, open_stream
from musiq_ref.training.validation import validate

CALIBRATION = 512  # examples from which the mean and deviation of targets, and of features, are taken
WITHOUT_PATCHES = 0.8  # the part of the epochs in which patches are left out


class Result(NamedTuple):
    """What a run leaves: the last and best checkpoints, the log, and the last validation's figures.

    best: None where it was removed, and no epoch has come since
    """

    last: Path
    best: Path | None
    log: Path
    validation: dict[str, float]


class Run(NamedTuple):
    """What stays the same from the first step to the last."""

    settings: Settings
    config: MusiqConfig
    stream: Stream
    world: World
    threads: int
    files: Files
    device: Backend

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return math.ceil(self.stream.length / self.settings.batch)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.settings.epochs * self.per_epoch

    def learning_rate(self, step: int) -> float:
        """Of step number `step`, from 0."""
        settings = self.settings
        factor = SCHEDULES[settings.schedule](step, self.steps, min(settings.warmup, self.steps - 1))
        return settings.learning_rate * factor

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch is over after so many steps."""
        return step % self.per_epoch == 0 or step == self.steps


def train(
    settings: Settings,
    folder: str | Path,
    data: str | Path | None = None,
    progress: bool = True,
    world: World = World(),  # noqa: B008, it cannot change
    accept_changed_data: bool = False,
    backend: str = "numpy",
) -> Result:
    """Trains, or goes on training, in a folder.

    settings: from `recipe`
    folder: for state.safetensors (to go on from), last.safetensors and best.safetensors (checkpoints), log.jsonl
    data: where the data set lies
    progress: show a bar
    world: from `parallel.together` where several processes train, of which rank 0 alone writes and validates
    accept_changed_data: go on although labels, images or split are not those of before; what was held out stays so
    backend: "numpy" or "cupy", where the steps are computed; a run may go on with another, to rounding

    A run that was stopped, however abruptly, and is started again with the same settings ends with the same bits as one
    that was not. An interrupt (KeyboardInterrupt) saves the last whole step first. The folder is locked meanwhile.
    Raises TrainingError, DatasetError, CheckpointError or BackendError, in one sentence.

    >>> import tempfile
    >>> from musiq_ref.training.settings import recipe
    >>> tiny = recipe("synthetic", epochs=1, epoch_images=4, batch=2, warmup=0, model={"layers": 1})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train(tiny, folder, progress=False).last.name
    'last.safetensors'
    """
    files, device = Files.of(Path(folder)), get_backend(backend)
    names = [path.name for path in files]
    with claimed(Path(folder), names) if world.rank == 0 else contextlib.nullcontext():

        def saved() -> State | None:
            files.check([name for name in (settings.init, data or "") if name])
            return load_state(files.state, settings) if files.state.exists() else None

        before = world.from_first(saved)
        stream = open_stream(settings, data, before.held_out if before else ())
        for problem in stream.problems if world.rank == 0 else ():
            print(f"left out: {problem}", file=sys.stderr)
        if any(other != stream.data for other in world.exchange(dict(stream.data))):
            raise TrainingError("the processes do not all find the same data set; give the same files to all")
        run = Run(settings, settings.config(), stream, world, settings.threads or world.threads(), files, device)
        state = before and _same_data(run, before, accept_changed_data)
        state = state or world.from_first(lambda: first_state(settings, stream))
        with device.guard():
            return _go_on(run, state, progress)


def _same_data(run: Run, state: State, accept: bool) -> State:
    """The state, if the data set is that of before, or may be another; TrainingError says what has changed."""
    files, before, now = run.files, state.data or {}, run.stream.data
    changed = [name for name in now if before and before.get(name) != now[name]]
    if "number of images" in changed:  # which changes all else
        changed = [f"number of images, {now['number of images']} and not {before.get('number of images')}"]
    what = " and ".join(changed)
    if changed and not accept:
        raise TrainingError(
            f"the data set is not the one that the run in {files.state.parent} began with (changed: {what}); restore "
            f"it, name another folder, or add --accept-changed-data (accept_changed_data=True) to go on with it"
        )
    if state.step > run.steps:
        raise TrainingError(
            f"{files.state} is at step {state.step}, beyond the {run.steps} of {run.settings.epochs} epochs; set "
            f"epochs to {math.ceil(state.step / run.per_epoch)} or more, or name another folder"
        )
    if changed:
        if run.world.rank == 0:
            note = "what was held out stays held out, and the best is looked for anew"
            print(f"going on with a data set that has changed ({what}): {note}", file=sys.stderr)
        state = state._replace(best=None, best_step=None)
    return state


def _go_on(run: Run, state: State, progress: bool) -> Result:
    """The steps that are left."""
    settings, files, first = run.settings, run.files, run.world.rank == 0
    log = run.world.from_first(lambda: Log(files.log, state.step, state.log))
    held_out = sorted({*state.held_out, *run.stream.held_out})
    state = state._replace(data=dict(run.stream.data), held_out=held_out)
    if first and state.best is not None:
        state = _with_best(run, state)
    state = upload(state, run.device)
    result, done, kept = log.last_validation(), state, state.step
    bar = Progress(run.steps, state.step, settings.epochs, show=progress and first)
    try:
        for tokens, targets in _batches(run, state.step):
            state, loss, norm, scores = _one_step(run, state, tokens, targets)
            targets = run.world.gather(targets)
            if not first:
                continue
            log.add(step=state.step, loss=loss, norm=norm, learning_rate=run.learning_rate(state.step - 1))
            bar.step(loss, scores, targets)
            if run.ends_epoch(state.step):
                epoch = state.step // run.per_epoch
                result = validate(_answer(state, settings), run.config, run.stream, run.threads, run.device)
                log.add(step=state.step, epoch=epoch, **result)
                bar.epoch(epoch, result)
                quality = result.get("srcc", -result["rmse"])
                if state.best is None or quality > state.best:
                    state = state._replace(best=quality, best_step=state.step)
            done = state = state._replace(log=log.digest)
            if run.ends_epoch(state.step) or state.step % settings.save_every == 0:
                _keep(run, log, done)
                kept = done.step
    except KeyboardInterrupt:
        if first and done.step > kept:
            _keep(run, log, done)
        raise
    finally:
        bar.close()
    if first:
        save_checkpoint(files.last, _answer(state, settings), run.config)
    return Result(files.last, files.best if files.best.exists() else None, log.path, result)


def _keep(run: Run, log: Log, state: State) -> None:
    """Saves the state, then the best checkpoint if it is the state's; a kill between the two is mended at the start."""
    log.sync()
    save_state(run.files.state, state, run.settings)
    if state.best_step == state.step:
        save_checkpoint(run.files.best, _answer(state, run.settings), run.config)


def _with_best(run: Run, state: State) -> State:
    """The state, once best.safetensors is what it says; where that is lost, the best is looked for anew."""
    best = run.files.best
    if state.best_step == state.step:
        if not _holds(best, _answer(state, run.settings)):
            save_checkpoint(best, _answer(state, run.settings), run.config)
    elif not best.exists():
        print(f"{best} is gone; the best from now on will be kept there", file=sys.stderr)
        return state._replace(best=None, best_step=None)
    return state


def _holds(path: Path, params: Params) -> bool:
    """Whether a checkpoint is there and holds these parameters."""
    try:
        found = dict(flatten(load_checkpoint(path).params))
    except CheckpointError:
        return False
    return all(np.array_equal(found[name], array) for name, array in flatten(params))


def first_state(settings: Settings, stream: Stream) -> State:
    """The state before the first step: drawn anew, or from the checkpoint `init` with a new head if outputs differ."""
    config = settings.config()
    params = init_params(config, settings.seed, settings.dtype)
    if settings.init:
        try:
            given = load_checkpoint(settings.init, settings.dtype).params
        except CheckpointError as error:
            remedy = "--set init=FILE starts from other weights, --set init= from none"
            raise CheckpointError(f"{error}; or {remedy}") from None
        params = _take_over(given, params, settings.init)
    if settings.fit_to_images:
        count = min(CALIBRATION, stream.length)
        images = (stream.example(0, number)[0] for number in range(count))
        params = fit_to_images(params, config, [tokens_for(image, config, settings.dtype) for image in images])
    centre, spread = 0.0, 1.0
    if settings.normalize_targets:
        if config.outputs != 1:
            raise TrainingError(f"normalize_targets is for a single score, not for {config.outputs} outputs")
        count = min(CALIBRATION, stream.length)
        targets = np.array([stream.example(0, number)[1] for number in range(count)], dtype=np.float64)
        centre, spread = float(targets.mean()), float(targets.std()) or 1.0
        if settings.init:  # a checkpoint answers in scores; here the head is to answer in normalised ones
            params = map_params(
                lambda array: np.asarray(array, settings.dtype), fold_targets(params, -centre / spread, 1 / spread)
            )
    average = params if settings.ema else {}
    return State(0, params, OPTIMIZERS[settings.optimizer][0](params), average, centre, spread, None)


def _take_over(given: Params, fresh: Params, name: str) -> Params:
    """The given parameters, with a fresh head where the number of outputs differs."""
    shapes = {path: array.shape for path, array in flatten(given)}
    for path, array in flatten(fresh):
        if not path.startswith("head/") and shapes.get(path) != array.shape:
            raise TrainingError(
                f"{name} has {path} of shape {shapes.get(path)}, the model to train needs {array.shape}; "
                f"train a model of the checkpoint's configuration"
            )
    fits = shapes["head/kernel"] == fresh["head"]["kernel"].shape
    return {**given, "head": given["head"] if fits else fresh["head"]}


def _batches(run: Run, first: int) -> Iterator[tuple[list[Tokens], np.ndarray]]:
    """(tokens, targets), this process's share of them, for the steps from `first` on.

    The next batch is prepared while one is worked on.
    """
    settings, stream = run.settings, run.stream

    def example(epoch: int, number: int):
        image, target = stream.example(epoch, number)
        if settings.flip and np.random.default_rng((settings.seed, epoch, number, 1)).random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        tokens = tokens_for(image, run.config, settings.dtype)
        if settings.patch_dropout and epoch < WITHOUT_PATCHES * settings.epochs:
            tokens = _thinned(tokens, settings.patch_dropout, np.random.default_rng((settings.seed, epoch, number, 2)))
        return tokens, target

    @ONE_THREAD
    def prepare(step: int):
        epoch, position = divmod(step, run.per_epoch)
        numbers = range(position * settings.batch, min((position + 1) * settings.batch, stream.length))
        examples = [example(epoch, number) for number in run.world.share(numbers, settings.micro_batch)]
        return [tokens for tokens, _ in examples], np.array([target for _, target in examples])

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(prepare, first) if first < run.steps else None
        for step in range(first, run.steps):
            assert ahead is not None
            ready = ahead.result()
            ahead = pool.submit(prepare, step + 1) if step + 1 < run.steps else None
            yield ready


def _thinned(tokens: Tokens, rate: float, rng: np.random.Generator) -> Tokens:
    """The tokens without a share of the patches, at least one being left: cheaper, and nearly as instructive."""
    valid = np.flatnonzero(tokens.mask)
    kept = np.sort(rng.choice(valid, max(1, round((1 - rate) * len(valid))), replace=False))
    return Tokens(*(array[kept] for array in tokens))


def _one_step(run: Run, state: State, tokens: list[Tokens], targets: np.ndarray):
    """The state after one step, the loss, the gradient's norm, the scores (of the whole batch)."""
    settings, groups = run.settings, run.settings.groups or None
    aim = (targets - state.centre) / state.spread if settings.normalize_targets else targets
    try:
        gradient = world_gradient(
            run.world,
            state.params,
            tokens,
            aim,
            run.config,
            settings.loss,
            loss_options=settings.loss_options,
            micro_batch=settings.micro_batch,
            threads=run.threads,
            recompute=settings.recompute,
            rates=Rates(settings.dropout, settings.attention_dropout, settings.stochastic_depth),
            seed=(settings.seed, state.step),
            repeat=run.device.repeat,
        )
        clipped, norm = clip_by_global_norm(gradient.gradients, settings.clip or math.inf, groups)
        params, optimizer = OPTIMIZERS[settings.optimizer][1](
            state.params,
            clipped,
            state.optimizer,
            run.learning_rate(state.step),
            groups=groups,
            **settings.optimizer_options,
        )
        _check_finite(params)
    except MemoryError:
        if run.device is NUMPY:
            raise
        remedy = "add --set recompute=true, or lower micro_batch, or the pictures' size"
        raise TrainingError(f"the GPU's memory does not suffice for step {state.step + 1}; {remedy}") from None
    except ValueError as error:
        kept = ", in another folder (this one keeps the last good state)" if run.files.state.exists() else ""
        raise TrainingError(
            f"step {state.step + 1}: {error}; if the run has diverged, lower learning_rate or set clip{kept}"
        ) from None
    average = ema(state.average, params, settings.ema) if settings.ema else {}
    scores = to_host(gradient.scores) * state.spread + state.centre
    state = state._replace(step=state.step + 1, params=params, optimizer=optimizer, average=average)
    return state, gradient.loss, float(norm), scores


def _check_finite(params: Params) -> None:
    """Raises ValueError, naming it, for a parameter that is not finite; where all are, a device is waited for once."""
    leaves, xp = dict(flatten(params)), namespace(params["class_token"])

    def finite(arrays: Iterable[Array]) -> np.ndarray:
        return to_host(xp.stack([xp.isfinite(a).all() for a in arrays]))

    if not finite(EndToEnd(leaves).join(leaves)).all():
        path = list(leaves)[finite(leaves.values()).argmin()]
        raise ValueError(f"parameter {path} is not finite any more")


def _answer(state: State, settings: Settings) -> Params:
    """The parameters that a run would give if it ended now: averaged if asked, answering in scores; on the host."""
    params = map_params(to_host, state.average if settings.ema else state.params)
    folded = fold_targets(params, state.centre, state.spread) if settings.normalize_targets else params
    return map_params(lambda array: np.asarray(array, settings.dtype), folded)
