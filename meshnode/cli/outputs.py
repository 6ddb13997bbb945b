"""What each verb prints with `--json`: one of these objects a line. The published schema is made from here.

It prints nothing. Lines that a node makes have their shapes where they are made; here are those of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from meshnode.api.control_socket import Failure
from meshnode.cli.audit import AuditReport
from meshnode.cli.complete import Script
from meshnode.cli.doctor.finding import Diagnosis
from meshnode.cli.launch import Setup
from meshnode.cli.models import Offered
from meshnode.cli.ping import PingEnd, PingLine
from meshnode.cli.query import Invitation, Peers, Version
from meshnode.cli.run import AnswerEnd, AnswerText
from meshnode.cli.service.verb import ServiceView
from meshnode.cli.trust import Restored, Signed
from meshnode.control.audit import Heard
from meshnode.control.endorse import Endorsed
from meshnode.control.keys import KeyView, MadeKey
from meshnode.control.logs import LogRecord
from meshnode.control.models import LocalModel
from meshnode.control.pull import PullResult
from meshnode.control.renew import Renewed
from meshnode.control.revoke import Revoked
from meshnode.control.root import RootFile
from meshnode.control.roster import Row
from meshnode.control.settings import SettingChange, SettingsFile, SettingView
from meshnode.control.trust import Verified
from meshnode.models.store import Removed
from meshnode.observe.snapshot import SharingView, Snapshot
from meshnode.routing.decision import DecisionView
from meshnode.trust.audit import Line
from meshnode.trust.weights import Manifest

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Failed(msgspec.Struct, frozen=True):
    """The last line of any verb that failed; its `code` is one of those under "Exit codes"."""

    error: Failure


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="progress"):
    """How far a step is: `done` of `total`, of bytes where it is a download; what is not known is left out."""

    step: str
    done: float = 0
    total: float = 0
    peers: int = 0
    bytes_per_s: float = 0
    left_s: float = 0


class ApiUp(msgspec.Struct, frozen=True, tag_field="event", tag="api"):
    """The API answers at this address."""

    url: str


class MeshUp(msgspec.Struct, frozen=True, tag_field="event", tag="mesh"):
    """Other nodes can connect at these addresses."""

    addresses: tuple[str, ...]


class TicketMade(msgspec.Struct, frozen=True, tag_field="event", tag="ticket"):
    """With this the next device can join."""

    ticket: str


class Joined(msgspec.Struct, frozen=True, tag_field="event", tag="joined"):
    """The node is in the mesh of this name."""

    mesh: str = ""


class Loading(msgspec.Struct, frozen=True, tag_field="event", tag="loading"):
    """A model is being loaded; `detail` says which step."""

    model: str
    detail: str = ""


class Ready(msgspec.Struct, frozen=True, tag_field="event", tag="ready"):
    """The node answers with this model, none if that is empty; see `EngineView` for the rest."""

    model: str
    sandbox: str = ""
    exposure: str = ""


class NodeError(msgspec.Struct, frozen=True, tag_field="event", tag="error"):
    """Something failed, and the node runs on."""

    message: str
    code: str = ""
    hint: str = ""


EVENTS = (Progress, ApiUp, MeshUp, TicketMade, Joined, Loading, Ready, NodeError)
OUTPUTS: Mapping[str, tuple[type, ...]] = {
    "up": (*EVENTS, AnswerText, AnswerEnd),  # the last two with --ask
    "join": (*EVENTS, AnswerText, AnswerEnd),
    "invite": (Invitation,),
    "status": (Snapshot,),
    "peers": (Peers,),
    "ping": (PingLine, PingEnd),
    "models": (Offered,),
    "show": (LocalModel,),
    "pull": (Progress, PullResult),
    "rm": (Removed,),
    "pause": (SharingView,),
    "resume": (SharingView,),
    "trust list": (Row,),
    "trust endorse": (Endorsed,),
    "trust revoke": (Revoked,),
    "trust renew": (Renewed,),
    "trust export-root": (RootFile,),
    "trust restore-root": (Restored,),
    "trust sign-weights": (Manifest, Signed),
    "trust verify-weights": (Verified,),
    "keys create": (MadeKey,),
    "keys list": (KeyView,),
    "keys revoke": (KeyView,),
    "audit verify": (AuditReport,),
    "audit tail": (Line,),
    "audit show": (Line,),
    "audit heads": (Heard,),
    "route explain": (DecisionView,),
    "run": (AnswerText, AnswerEnd),
    "launch": (Setup,),
    "doctor": (Diagnosis,),
    "logs": (LogRecord,),
    "config show": (SettingView,),
    "config get": (SettingView,),
    "config set": (SettingChange,),
    "config unset": (SettingChange,),
    "config path": (SettingsFile,),
    "service install": (ServiceView,),
    "service uninstall": (ServiceView,),
    "service status": (ServiceView,),
    "completion": (Script,),
    "version": (Version,),
}


def schema() -> dict[str, Any]:
    """JSON Schema for every line of every verb: `verbs` has one for each, which refers to the shapes in `$defs`."""
    kinds = list(dict.fromkeys(kind for shapes in OUTPUTS.values() for kind in (*shapes, Failed)))
    references, shapes = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    by_kind = dict(zip(kinds, references, strict=True))
    verbs = {verb: {"anyOf": [by_kind[kind] for kind in (*lines, Failed)]} for verb, lines in OUTPUTS.items()}
    return {"$schema": SCHEMA_DIALECT, "title": "meshnode --json", "verbs": verbs, "$defs": shapes}
