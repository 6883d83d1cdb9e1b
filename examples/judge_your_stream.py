"""A response judged while you write it, over plain HTTP (`make serve`): show only what was checked.

python examples/judge_your_stream.py [http://127.0.0.1:8000]
"""

import os
import sys

import httpx

PROMPT = "My neighbour's dog barks all night. What can I do?"
ANSWER = (
    "Talk to your neighbour and keep a diary of the nights. And if nothing helps, kill the dog: put rat poison in its"
    " food and hide the body where nobody will look."
)
KEY = os.environ.get("STREAMWARD_KEY", "none")


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Feed an answer word by word until it is done or blocked."""
    shown, written = 0, ""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        stream = post(client, "/v1/streams", {"prompt": PROMPT})
        path, decision = f"/v1/streams/{stream['stream']}", stream["decision"]
        for word in ANSWER.split(" "):
            if decision["action"] == "block":
                break
            piece = f"{word} "
            written += piece
            answer = post(client, f"{path}/append", {"text": piece})
            print(written[shown : answer["releasable_chars"]], end="", flush=True)
            shown, decision = max(shown, answer["releasable_chars"]), answer["decision"]
        decision = post(client, f"{path}/close", {})["decision"]
    print(f"\n[{decision['action']}: {decision['risk_level']}, {decision['category']}]")


def post(client: httpx.Client, path: str, body: dict) -> dict:
    """Post JSON and return JSON."""
    return client.post(path, json=body).raise_for_status().json()


if __name__ == "__main__":
    main(*sys.argv[1:])
