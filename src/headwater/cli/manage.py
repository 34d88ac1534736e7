"""`projects` and `keys`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headwater.cli.client import connect
from headwater.cli.context import of
from headwater.cli.show import as_json, err, table
from headwater.errors import UsageError

ROLES = ("write", "read", "admin")


def register(app: typer.Typer) -> None:
    projects = typer.Typer(help="Projects: each sees its own events and nothing else.", no_args_is_help=True)
    projects.command("create")(create_project)
    projects.command("list")(list_projects)
    app.add_typer(projects, name="projects")
    keys = typer.Typer(help="Keys: who may send, ask and manage.", no_args_is_help=True)
    keys.command("create")(create_key)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke_key)
    app.add_typer(keys, name="keys")


def listed(answer: Any) -> list[dict[str, Any]]:
    """The rows of an answer."""
    rows: list[dict[str, Any]] = answer["data"] if isinstance(answer, dict) else answer
    return rows


def create_project(
    context: typer.Context, project_id: Annotated[str, typer.Argument(metavar="ID", help="a-z, 0-9 and -, up to 50.")]
) -> None:
    """Make a project.

    Example: headwater projects create shop
    """
    common = of(context)
    common.project = "default"
    with connect(common) as api:
        made = api.post("/v1/projects", {"id": project_id})
    if common.json:
        as_json(made)
    else:
        err.print(f"Made. A key for it: headwater keys create --role write --project {project_id}", markup=False)


def list_projects(context: typer.Context) -> None:
    """List the projects.

    Example: headwater projects list
    """
    with connect(of(context)) as api:
        rows = listed(api.get("/v1/projects"))
    if of(context).json:
        as_json(rows)
    else:
        table(("project", "since"), [(row["id"], row["createdAt"]) for row in rows])


def create_key(context: typer.Context, role: Annotated[str, typer.Option(help="write, read or admin.")]) -> None:
    """Make a key; its secret is printed this once, alone on stdout.

    Example: headwater keys create --role write > write.key
    """
    common = of(context)
    if role not in ROLES:
        raise UsageError(f"no role {role!r}; there are {', '.join(ROLES)}")
    with connect(common) as api:
        made = api.post("/v1/keys", {"role": role, "project": common.project})
    if common.json:
        as_json(made)
    else:
        print(made["secret"])
        err.print(f"{role} key {made['id']} of project {common.project}; it is not shown again", markup=False)


def list_keys(context: typer.Context) -> None:
    """List the keys of the project, without their secrets.

    Example: headwater keys list
    """
    with connect(of(context)) as api:
        rows = listed(api.get("/v1/keys"))
    if of(context).json:
        as_json(rows)
    else:
        shown = [(r["id"], r["role"], r["prefix"], r["createdAt"], r.get("revokedAt")) for r in rows]
        table(("id", "role", "begins with", "since", "revoked"), shown)


def revoke_key(context: typer.Context, key_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Revoke a key; it is refused everywhere when this returns.

    Example: headwater keys revoke 3
    """
    with connect(of(context)) as api:
        api.call("DELETE", f"/v1/keys/{key_id}")
    err.print(f"Revoked {key_id}.", markup=False)
