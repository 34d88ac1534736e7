"""Work that `work` is asked to do, followed until it is done."""

from __future__ import annotations

import time
from typing import Any

from headwater.cli.client import Api, connect, running_at
from headwater.cli.context import Context
from headwater.cli.show import as_json, err
from headwater.errors import Unreachable


def follow(api: Api, kind: str, parameters: dict[str, str], *, quiet: bool = False) -> dict[str, Any]:
    """Asks for a job and waits for its end; its state says how it ended."""
    job = api.post("/v1/jobs", {"kind": kind, "parameters": parameters})
    with err.status(f"{kind}: waiting") as status:
        if api.work_off is not None:
            api.work_off()
        while True:
            state: dict[str, Any] = api.get(f"/v1/jobs/{job['id']}")
            if state["state"] == "done" or state["state"].startswith("failed"):
                return state
            if not quiet:
                status.update(f"{kind}: {state.get('progress') or state['state']}")
            time.sleep(0.2)


def run_batch_once(context: Context) -> int:
    """Everything that the batch process has to do, done now. Asks a running `work`, else does it itself."""
    if running_at(context) or context.url:
        with connect(context) as api:
            state = follow(api, "batch", {})
        if context.json:
            as_json(state)
        if state["state"] != "done":
            err.print(f"headwater: batch {state['state']}", markup=False)
            return 1
        return 0
    if not context.folder.exists():
        raise Unreachable(f"there is no Headwater data in {context.folder}")
    from headwater.assembly import lock
    from headwater.assembly.work import run_batch

    with lock.take(context.folder):
        run_batch(context.load().settings)
    return 0
