"""The models a server has, and the thread that loads and unloads their versions.

The rules are the stock server's `AspiredVersionsManager` with its `AvailabilityPreservingPolicy`:
a version is wanted or not as the folder and the policy say; a new one is loaded before an old one
goes; one that fails to load leaves the old one at work.

One lock guards what is known of the versions. Each change of a state is decided and made without
letting go of it; what takes time, to read folders, load and close, is done without it.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import grpc

from export import protocol
from export.server import errors, versions
from export.server.servable import Servable

log = logging.getLogger(__name__)

State = protocol.ModelVersionStatus.State
_TICK = 0.1  # seconds between looks at what is to be done
_NOW = -math.inf  # on any clock


@dataclasses.dataclass
class Version:
    """One version of a model, from when it was found until long after it is gone.

    Attributes:
      model, number, path: which and where.
      wanted: it is in the folder and the policy asks for it.
      state: START, LOADING, AVAILABLE, UNLOADING or END.
      error: why the last attempt to load it failed; None if it did not.
      servable: what answers requests, while AVAILABLE or UNLOADING.
      users: requests that it is answering.
      failures: attempts to load it that went wrong.
      load_at: when to load it, or to try again, on the clock of `time.monotonic`; infinity while
        that is under way.
    """

    model: str
    number: int
    path: str
    wanted: bool = True
    state: int = State.START
    error: errors.ServingError | None = None
    servable: Servable | None = None
    users: int = 0
    failures: int = 0
    load_at: float = 0.0

    def __str__(self):
        return f"{{name: {self.model} version: {self.number}}}"


class ModelManager:
    """Keeps the wanted versions of some models loaded. Thread-safe.

    It has no models until `replace_models`.

    Args:
      load: makes a Servable of (name, version, path) or raises ServingError.
      poll_wait_seconds: between looks at the folders; 0 looks once for each list of models, less
        than 0 never.
      max_num_load_retries: attempts at a version beyond the first.
      load_retry_interval: seconds between attempts.

    Attributes:
      labels: model -> label -> version. Replace it whole.
    """

    def __init__(
        self,
        load: Callable[[str, int, str], Servable],
        poll_wait_seconds: float = 1,
        max_num_load_retries: int = 5,
        load_retry_interval: float = 60,
    ):
        self._models: dict[str, protocol.ModelConfig] = {}
        self.labels: Mapping[str, Mapping[str, int]] = {}
        self._load = load
        self._poll_wait = poll_wait_seconds
        self._max_retries, self._retry_interval = max_num_load_retries, load_retry_interval
        self._versions: dict[str, dict[int, Version]] = {}
        self._poll_at = math.inf  # on the clock of `time.monotonic`
        self._stopping = False
        self._changed = threading.Condition()  # guards all of the above and its contents
        self._complaints = {}  # model -> what was last said of its folder
        self._thread = threading.Thread(target=self._work, name="manager", daemon=True)

    def start(self) -> None:
        """Starts the thread that loads and unloads."""
        self._thread.start()

    def replace_models(self, models: Iterable[protocol.ModelConfig]) -> list[str]:
        """Other models to keep: what is not among them is unloaded, what is new is loaded.

        Args:
          models: names, folders and policies, no name twice.

        Returns:
          The names that are new; see `wait`.
        """
        with self._changed:
            old, self._models = self._models, {model.name: model for model in models}
            for name in old.keys() - self._models.keys():
                self._want(name, {})
            for name in self._models:
                self._versions.setdefault(name, {})
            # At once, or what has gone and come again would be unloaded before it is found.
            self._poll_at = _NOW if self._poll_wait >= 0 else math.inf
            self._changed.notify_all()
            return [name for name in self._models if name not in old]

    def wait(
        self,
        names: Collection[str] | None = None,
        timeout: float | None = None,
        noun: str = "servable(s)",
    ) -> bool:
        """Waits until each of these models has a version available.

        Args:
          names: of models; None for all.
          timeout: seconds; None waits for ever.
          noun: what to call those that have none.

        Returns:
          True once they have, False after the timeout or when the manager stops.

        Raises:
          ServingError: none of the versions of a model could be loaded, at the first attempt: a bad
            model is told of at once, and tried again nevertheless.
        """
        with self._changed:
            names = self._models if names is None else names
            self._changed.wait_for(
                lambda: self._stopping or self._ready(names) or self._failed(names), timeout
            )
            if failed := self._failed(names):
                told = "".join(f"{{{v} due to error: {v.error}}}, " for v in failed)
                raise errors.ServingError(
                    grpc.StatusCode.UNKNOWN,
                    f"{len(failed)} {noun} did not become available: {{{told}}}",
                )
            return self._ready(names)

    def stop(self, patience: float = 10) -> None:
        """Ends the thread and closes every session, whatever still runs in it.

        Args:
          patience: seconds to wait for a load that is under way. One that takes longer closes its
            session itself, once it is over.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(patience)
        with self._changed:
            servables = [self._end(version) for version in self._all()]
        for servable in servables:
            if servable is not None:
                servable.close()

    @contextlib.contextmanager
    def use(self, spec: protocol.ModelSpec) -> Iterator[Servable]:
        """A context with the version that a request asks for, which stays loaded throughout.

        Raises:
          ServingError: the request names no model, or none that is available.
        """
        version, servable = self._take(spec)
        try:
            yield servable
        finally:
            with self._changed:
                version.users -= 1
                if version.state == State.UNLOADING:
                    self._changed.notify_all()

    @property
    def names(self) -> Collection[str]:
        """Of the models that it has or had."""
        return self._versions

    def states(self, name: str) -> list[Version]:
        """Copies of all versions that a model has or had, newest first."""
        with self._changed:
            known = self._versions.get(name, {})
            return [dataclasses.replace(known[number]) for number in sorted(known, reverse=True)]

    def _take(self, spec: protocol.ModelSpec) -> tuple[Version, Servable]:
        if not spec.name:
            raise errors.invalid_argument("ModelSpec has no name specified.")
        with self._changed:
            number = self._number(spec)
            known = self._versions.get(spec.name, {}).values()
            able = {v.number: v for v in known if v.state == State.AVAILABLE}
            if number is None and able:
                number = max(able)
            if number not in able:
                asked = (
                    f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
                )
                raise errors.not_found(f"Servable not found for request: {asked}")
            able[number].users += 1
            return able[number], able[number].servable

    def _number(self, spec: protocol.ModelSpec) -> int | None:
        """The version that a request names, by number or label; None for the latest."""
        match spec.WhichOneof("version_choice"):
            case "version":
                return spec.version.value
            case "version_label":
                labels = self.labels.get(spec.name, {})
                if spec.version_label not in labels:
                    raise errors.invalid_argument(
                        f"Unrecognized servable version label: {spec.version_label}"
                    )
                return labels[spec.version_label]
        return None

    def _want(self, name: str, wanted: dict[int, str]) -> None:
        known = self._versions[name]
        for number, version in list(known.items()):
            if number not in wanted:
                version.wanted = False
                if version.state == State.START:
                    del known[number]
                elif version.state == State.LOADING and version.load_at < math.inf:
                    version.state = State.END
        for number, path in wanted.items():
            version = known.get(number)
            if version is None or (version.state == State.END and not version.wanted):
                version = known[number] = Version(name, number, path)
            version.wanted, version.path = True, path

    def _all(self) -> list[Version]:
        return [version for known in self._versions.values() for version in known.values()]

    def _ready(self, names: Collection[str]) -> bool:
        return all(
            any(version.state == State.AVAILABLE for version in self._versions[name].values())
            for name in names
        )

    def _failed(self, names: Collection[str]) -> list[Version]:
        """The versions of each model that has none to serve, all having been tried."""
        failed = []
        for known in (self._versions[name] for name in names):
            tried = [version for version in known.values() if version.wanted]
            serving = any(version.servable is not None for version in known.values())
            if not serving and all(version.error is not None for version in tried):
                failed += tried
        return failed

    @staticmethod
    def _end(version: Version) -> Servable | None:
        """Gives its servable away, to be closed."""
        servable, version.servable, version.state = version.servable, None, State.END
        return servable

    # What follows runs in the manager's thread.

    def _work(self) -> None:
        while not self._stopping:
            try:
                self._poll_if_due()
                self._take_step()
            except Exception:  # the thread must outlive whatever happens to one version
                log.exception("The manager of models stumbled; it goes on")
                time.sleep(_TICK)

    def _poll_if_due(self) -> None:
        with self._changed:
            if time.monotonic() < self._poll_at:
                return
            self._poll_at = time.monotonic() + (self._poll_wait or math.inf)
            models = self._models
        for name, model in models.items():
            try:
                wanted = versions.wanted(model)
            except (OSError, ValueError) as error:  # a folder that is gone changes nothing
                self._complain(name, f"Could not find base path {model.base_path}: {error}")
                continue
            self._complain(name, "" if wanted else f"No versions of servable {name} found under "
                           f"base path {model.base_path}. Did you forget to name your leaf "
                           "directory as a number (eg. '/1/')?")  # fmt: skip
            with self._changed:
                if self._models is models:  # if not, others came meanwhile, to be looked at next
                    self._want(name, wanted)

    def _complain(self, name: str, message: str) -> None:
        """Warns once, not at every poll."""
        if message and self._complaints.get(name) != message:
            log.warning(message)
        self._complaints[name] = message

    def _take_step(self) -> None:
        """Does one thing towards what is wanted, or waits a little if there is none."""
        with self._changed:
            if self._stopping or self._poll_at == _NOW:
                return
            step = self._next_step()
            if step is None:
                self._changed.wait(_TICK)
                return
            self._changed.notify_all()
        step()

    def _next_step(self) -> Callable[[], None] | None:
        """What is to be done without the lock; the state of the version says so already."""
        models = self._versions.values()
        for version in self._all():
            if version.state == State.UNLOADING and not version.users:
                if version.wanted:  # again, by now
                    new = Version(version.model, version.number, version.path)
                    self._versions[version.model][version.number] = new
                return functools.partial(self._close, version, self._end(version))
        for known in models:
            serving = [v for v in known.values() if v.state == State.AVAILABLE]
            surplus = [v for v in serving if not v.wanted]
            covered = any(v.wanted for v in serving) or not any(v.wanted for v in known.values())
            if surplus and (covered or len(surplus) > 1):
                version = min(surplus, key=lambda v: v.number)
                version.state = State.UNLOADING
                return functools.partial(log.info, "Quiescing servable version %s", version)
        for known in models:
            if due := [v for v in known.values() if self._is_due(v)]:
                version = max(due, key=lambda v: v.number)
                version.state, version.load_at = State.LOADING, math.inf
                return functools.partial(self._try_to_load, version)
        return None

    @staticmethod
    def _is_due(version: Version) -> bool:
        new = version.state in (State.START, State.LOADING)
        return new and version.wanted and version.load_at <= time.monotonic()

    def _try_to_load(self, version: Version) -> None:
        log.info("Loading servable version %s from %s", version, version.path)
        begun, servable, error = time.monotonic(), None, None
        try:
            servable = self._load(version.model, version.number, version.path)
        except errors.ServingError as failure:
            # Another one, as the traceback would keep what was loaded so far.
            error = errors.ServingError(failure.code, failure.message)
        except Exception as failure:
            log.exception("Loading servable version %s failed", version)
            error = errors.of_exception(failure)
        with self._changed:
            too_late = self._stopping  # `stop` may have closed the others already
            if error is not None:
                version.error, version.failures = error, version.failures + 1
                if version.wanted and version.failures <= self._max_retries:
                    version.load_at = time.monotonic() + self._retry_interval
                else:
                    version.state = State.END
            elif not too_late:
                version.servable, version.state, version.error = servable, State.AVAILABLE, None
            self._changed.notify_all()
        if error is not None:
            again = "" if version.state == State.END else f", next in {self._retry_interval:g} s"
            log.error("Servable %s cannot be loaded (attempt %d%s): %s",
                      version, version.failures, again, error)  # fmt: skip
        elif too_late:
            servable.close()
        else:
            log.info("Successfully loaded servable version %s in %.1f s",
                     version, time.monotonic() - begun)  # fmt: skip

    def _close(self, version: Version, servable: Servable) -> None:
        servable.close()
        log.info("Done unloading servable version %s", version)
