"""A pipeline of Haystack with a guard behind its generator."""

import pytest

from streamward.policy import Policy, SidePolicy
from streamward.schema import Action
from tests.server.marked_guard import marked_moderator

pytest.importorskip("haystack", reason="haystack-ai is not installed; make test-integrations")

from haystack import Pipeline, component
from haystack.dataclasses import ChatMessage

from streamward.integrations.haystack import ReplyGuard

pytestmark = pytest.mark.integrations


@component
class Scripted:
    """A generator that gives fixed replies."""

    def __init__(self, *says: str) -> None:
        self.says = says

    @component.output_types(replies=list[ChatMessage])
    def run(self, prompt: str) -> dict:
        return {"replies": [ChatMessage.from_assistant(each) for each in self.says]}


def run(guard, *says: str, prompt: str = "bread?") -> dict:
    pipeline = Pipeline()
    pipeline.add_component("model", Scripted(*says))
    pipeline.add_component("guard", ReplyGuard(guard))
    pipeline.connect("model.replies", "guard.replies")
    return pipeline.run({"model": {"prompt": prompt}, "guard": {"prompt": prompt}})["guard"]


def test_replies_that_the_policy_blocks_do_not_pass(guard):
    found = run(guard, "Take flour.", "fine ##")
    assert [reply.text for reply in found["replies"]] == ["Take flour."]
    assert [(each["action"], each["side"], each["category"]) for each in found["blocked"]] == [
        ("block", "response", "Violent")
    ]


def test_a_blocked_prompt_lets_no_reply_pass(guard):
    found = run(guard, "fine", prompt="#")
    assert found["replies"] == []
    assert found["blocked"][0]["side"] == "prompt"


def test_a_policy_may_say_something_instead():
    policy = Policy(name="mine", replacement="No.", response=SidePolicy(unsafe=Action.REPLACE))
    with marked_moderator(policy) as guard:
        assert [reply.text for reply in run(guard, "##")["replies"]] == ["No."]
