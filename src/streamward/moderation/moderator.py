"""The moderator: conversations in, results out; whole texts and streams, sync and async."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from streamward.closing import ClosedOnExit
from streamward.decisions import combine, decide_error
from streamward.detectors.detectors import Detectors
from streamward.engine.outputs import EngineStatistics
from streamward.errors import CheckpointError, ConfigError, InputError, UpstreamError
from streamward.guard_call import GuardCall, call_of, current_call
from streamward.moderation.async_stream import AsyncGuardStream
from streamward.moderation.cascade_statistics import CascadeStatistics, HasCascadeStatistics
from streamward.moderation.conversation import Conversation, MessageLike, read_conversation
from streamward.moderation.coroutines import run_async, run_blocking
from streamward.moderation.detecting_stream import with_detectors
from streamward.moderation.detection import decide_findings
from streamward.moderation.guard import (
    CalibratedGuard,
    Guard,
    HasEngineStatistics,
    RuleJudge,
    judge_with,
    open_stream_of,
)
from streamward.moderation.health import GuardHealth
from streamward.moderation.releasable import with_prompt
from streamward.moderation.response_stream import ResponseStream
from streamward.moderation.worker_pool import Submitter, WorkerPool, moderator_closed
from streamward.policy import Policy
from streamward.schema import Result, RiskLevel, Side

BatchItem = Mapping[str, object]
_ITEM_KEYS = frozenset({"prompt", "response", "messages"})
DEFAULT_MAX_CHARS = 1_000_000
DEFAULT_MAX_WORKERS = 8
_JOIN_S = 0.2  # time for threads to end when the moderator is closed


class _Loaded:
    """The state that a moderator and its views share: the guard, while loaded, and the threads that wait for it."""

    def __init__(self, guard: Guard, max_workers: int) -> None:
        self.pool = WorkerPool(max_workers)
        self._guard: Guard | None = guard
        self._calls: set[GuardCall] = set()
        self._lock = threading.Lock()

    @property
    def guard(self) -> Guard:
        guard = self._guard
        if guard is None:
            raise moderator_closed()
        return guard

    @contextmanager
    def used(self) -> Iterator[Guard]:
        """Lend the guard, for the time of a `with` block, to the current call, which ends when the guard is closed."""
        call = current_call()
        with self._lock:
            guard = self.guard
            self._calls.add(call)
        try:
            yield guard
        finally:
            with self._lock:
                self._calls.discard(call)

    def wrap(self, wrap: Callable[[Guard], Guard]) -> None:
        """Replace the guard by one around it."""
        with self._lock:
            self._guard = wrap(self.guard)

    def close(self) -> None:
        """Let go of the guard."""
        with self._lock:
            guard, self._guard = self._guard, None
            calls = list(self._calls)
        if guard is not None:
            for call in calls:
                call.cancel(moderator_closed())
            guard.close()
            self.pool.close(_JOIN_S)


class Moderator(ClosedOnExit):
    """A guard under a policy. From `streamward.load`. Thread-safe; close it, or use it in a `with` block."""

    def __init__(
        self,
        guard: Guard,
        *,
        policy: Policy,
        max_chars: int = DEFAULT_MAX_CHARS,
        max_workers: int = DEFAULT_MAX_WORKERS,
    ) -> None:
        """Put a guard under a policy.

        Args:
            guard: Owned by the moderator from now on.
            policy: What follows from a verdict.
            max_chars: Longest conversation accepted, in characters; for a stream, the longest response too.
            max_workers: Conversations of a batch, or asynchronous calls, that are judged together.

        Raises:
            ConfigError: The policy has rules that this guard cannot judge.
        """
        self.policy = policy
        self.max_chars = max_chars
        self.owner: str | None = None
        """Owner of these calls; see `with_owner`."""
        self._loaded = _Loaded(guard, max_workers)
        self._detectors: Detectors | None = None  # detectors of streams, instead of the policy's
        self._is_view = False
        try:
            self.check_policy(policy)
        except ConfigError:
            self.close()
            raise

    def moderate(
        self,
        prompt: str | None = None,
        response: str | None = None,
        messages: Sequence[MessageLike] | None = None,
    ) -> Result:
        """Judge a prompt, a response, or both; or the last turns of a conversation.

        Args:
            prompt: The user's text.
            response: The assistant's text; judged in the light of the prompt, if there is one.
            messages: Instead of both: a conversation, as `Message` or as OpenAI's clients write it. Judged are its last
                user turn and, if it ends with one, its last assistant turn with its tool calls; what is before is
                context. Results of tools are judged like a user's turn, and the user's own turn before them too.

        Returns:
            The judgements and the decision. A guard that fails gives the decision of the policy's `on_error`, with
            the error's code.

        Raises:
            InputError: Nothing to judge was given, blank text included, or something of the wrong kind.
            ContextLengthError: The text is longer than `max_chars`.
            OverloadedError: There is no room at present.
            StreamClosedError: The moderator is closed, perhaps in the meantime.
            GuardFailedError: The guard's engine does not work.
        """
        return run_blocking(self._judge(self._read(prompt, response, messages)), call=call_of(self.owner))

    def moderate_batch(self, items: Sequence[BatchItem]) -> list[Result]:
        """Judge many conversations together.

        Args:
            items: Mappings with the arguments of `moderate`.

        Returns:
            Their results, in the same order.

        Raises:
            InputError: An item is wrong; names it. Nothing was judged.
        """
        conversations = [self._read_item(item, index=index) for index, item in enumerate(items)]
        calls = [(GuardCall(self.owner), conversation) for conversation in conversations]
        judged = [self._threads.submit(partial(self._judge_blocking, *each)) for each in calls]
        try:
            return [each.result() for each in judged]
        finally:
            for call, _ in calls:
                call.cancel()  # calls that are over do not notice

    async def amoderate(
        self,
        prompt: str | None = None,
        response: str | None = None,
        messages: Sequence[MessageLike] | None = None,
    ) -> Result:
        """Like `moderate`, without blocking the event loop. Cancelling the task ends the guard's work for it."""
        conversation = self._read(prompt, response, messages)
        return await run_async(partial(self._judge, conversation), executor=self._threads, call=GuardCall(self.owner))

    def stream(self, prompt: str | None = None, messages: Sequence[MessageLike] | None = None) -> ResponseStream:
        """Start judging a response while it is generated.

        Args:
            prompt: The user's text. Neither prompt nor messages: the response is judged by itself.
            messages: Instead of it: the conversation up to the user's last turn, as for `moderate`.

        Raises:
            InputError: The conversation ends with an assistant's turn, or this guard cannot stream.
            ContextLengthError: The context is longer than `max_chars`.
            OverloadedError: There is no room at present.
        """
        return run_blocking(self._open_stream(self._read_context(prompt, messages)), call=call_of(self.owner))

    def astream(self, prompt: str | None = None, messages: Sequence[MessageLike] | None = None) -> AsyncGuardStream:
        """Like `stream`, for `async with`; the context is read on entering."""
        conversation = self._read_context(prompt, messages)
        opening = partial(self._open_stream, conversation)
        return AsyncGuardStream(opening, executor=self._threads, owner=self.owner)

    def check_policy(self, policy: Policy) -> None:
        """Refuse a policy with rules that the guard cannot judge.

        Raises:
            ConfigError: There is such a rule.
        """
        if not policy.rules:
            return
        guard = self._guard
        if not isinstance(guard, RuleJudge):
            raise ConfigError(
                f"the policy {policy.name!r} has rules, and this guard cannot judge rules; taught rules need a Stream"
                " guard whose engine runs in this process"
            )
        guard.check_policy(policy)

    def with_policy(self, policy: Policy) -> "Moderator":
        """Return a moderator over the same guard and threads under another policy.

        It costs nothing. The guard stays this one's: closing the other does nothing, closing this one ends both.

        Raises:
            ConfigError: The policy has rules that the guard cannot judge.
        """
        self.check_policy(policy)
        view = copy.copy(self)
        view.policy = policy
        view._is_view = True
        return view

    def with_owner(self, owner: str | None) -> "Moderator":
        """Return a moderator over the same guard for one of several owners, such as the keys of a service.

        Their work is done in turns, so that nobody waits in proportion to what somebody else asked for. Closing it
        does nothing, as with `with_policy`.
        """
        view = copy.copy(self)
        view.owner = owner
        view._is_view = True
        return view

    def with_detectors(self, detectors: Detectors) -> "Moderator":
        """Return a moderator over the same guard whose streams these detectors read instead of the policy's.

        Nothing reads the prompts of its streams: whoever asks for it has masked them. Closing it does nothing.
        """
        view = copy.copy(self)
        view._detectors = detectors
        view._is_view = True
        return view

    def guard_thresholds(self, side: Side) -> Mapping[RiskLevel, float]:
        """Return the guard's own thresholds of a side, which count where the policy states none.

        A level without a threshold counts where it is the most probable.

        Raises:
            StreamClosedError: The moderator is closed.
        """
        guard = self._loaded.guard
        return guard.thresholds(side) if isinstance(guard, CalibratedGuard) else {}

    def wrap_guard(self, wrap: Callable[[Guard], Guard]) -> None:
        """Put a guard in the place of the one behind this moderator and its views. Before anything is judged.

        Args:
            wrap: Is given the guard there is, and returns the one that owns it from now on.
        """
        self._loaded.wrap(wrap)

    def second_opinions(self) -> CascadeStatistics | None:
        """Return what second opinions have cost, and how often they agreed; None where no second guard is asked.

        Raises:
            StreamClosedError: The moderator is closed.
        """
        guard = self._loaded.guard
        return guard.statistics() if isinstance(guard, HasCascadeStatistics) else None

    def engine_statistics(self) -> EngineStatistics | None:
        """Return what the guard's engine has computed and reused so far; None where it is not in this process.

        Raises:
            StreamClosedError: The moderator is closed.
        """
        guard = self._loaded.guard
        return guard.engine_statistics() if isinstance(guard, HasEngineStatistics) else None

    def health(self) -> GuardHealth:
        """Say whether the guard makes progress.

        Raises:
            StreamClosedError: The moderator is closed.
        """
        return self._loaded.guard.health()

    def close(self) -> None:
        """Refuse further work, and free the model, its cache and the threads. May be called again.

        Calls that are being made end with a StreamClosedError. A step of the engine that is under way ends by itself;
        it is not waited for long.
        """
        if not self._is_view:
            self._loaded.close()

    @property
    def _guard(self) -> Guard:
        return self._loaded.guard

    @property
    def _threads(self) -> Submitter:
        return self._loaded.pool.of(self.owner)

    async def _open_stream(self, conversation: Conversation) -> ResponseStream:
        earlier = await self._judge_earlier(conversation)
        policy = self.policy.for_scopes(conversation.scopes)
        with self._loaded.used() as guard:
            stream = await open_stream_of(guard, conversation, policy, max_chars=self.max_chars)
        if earlier is not None:
            stream.add_prompt(earlier)
        return with_detectors(stream, self.policy, conversation, detectors=self._detectors)

    def _check_open(self) -> None:
        """Raise if the moderator is closed."""
        _ = self._loaded.guard

    def _judge_blocking(self, call: GuardCall, conversation: Conversation) -> Result:
        call.check()
        return run_blocking(self._judge(conversation), call=call)

    async def _judge(self, conversation: Conversation) -> Result:
        earlier = await self._judge_earlier(conversation)
        result = await self._judge_turns(conversation)
        result = result if earlier is None else with_prompt(result, earlier)
        return replace(result, decision=combine(result.decision, decide_findings(self.policy, conversation)))

    async def _judge_earlier(self, conversation: Conversation) -> Result | None:
        """Judge the user's own turn by itself, where results of tools came after it."""
        if not conversation.before_tools:
            return None
        return await self._judge_turns(Conversation(conversation.before_tools, None))

    async def _judge_turns(self, conversation: Conversation) -> Result:
        policy = self.policy.for_scopes(conversation.scopes)
        try:
            with self._loaded.used() as guard:
                return await judge_with(guard, conversation, policy)
        except (UpstreamError, CheckpointError) as error:
            prompt = decide_error(self.policy, Side.PROMPT, error) if conversation.has_prompt else None
            response = decide_error(self.policy, Side.RESPONSE, error) if conversation.response else None
            return Result(combine(prompt, response))

    def _read(
        self,
        prompt: str | None,
        response: str | None,
        messages: Sequence[MessageLike] | None,
        *,
        may_be_blank: bool = False,
    ) -> Conversation:
        self._check_open()
        return read_conversation(
            prompt=prompt,
            response=response,
            messages=messages,
            max_chars=self.max_chars,
            may_be_blank=may_be_blank,
        )

    def _read_context(self, prompt: str | None, messages: Sequence[MessageLike] | None) -> Conversation:
        if prompt is None and messages is None:
            self._check_open()
            return Conversation((), None)
        conversation = self._read(prompt, None, messages, may_be_blank=True)
        if conversation.response is not None:
            raise InputError("the conversation ends with an assistant's turn; a stream judges the one that comes next")
        return conversation

    def _read_item(self, item: BatchItem, *, index: int) -> Conversation:
        if not isinstance(item, Mapping) or not item.keys() <= _ITEM_KEYS:
            raise InputError(f"item {index} must be a mapping with the keys {', '.join(sorted(_ITEM_KEYS))} only")
        try:
            return self._read(item.get("prompt"), item.get("response"), item.get("messages"))  # type: ignore[arg-type]  # checked there
        except InputError as error:
            raise type(error)(f"item {index}: {error}") from error
