"""The command line as a whole: every verb under one program."""

import click

from meshnode import __version__
from meshnode.cli.audit import audit
from meshnode.cli.complete import completion
from meshnode.cli.doctor.verb import doctor
from meshnode.cli.join import join
from meshnode.cli.keys import keys
from meshnode.cli.launch import launch
from meshnode.cli.logs import logs
from meshnode.cli.models import models, pull, remove, show
from meshnode.cli.ping import ping
from meshnode.cli.query import invite, peers, status, version
from meshnode.cli.route import route
from meshnode.cli.run import run
from meshnode.cli.service.verb import service
from meshnode.cli.settings import config
from meshnode.cli.sharing import pause, resume
from meshnode.cli.trust import trust
from meshnode.cli.up import up
from meshnode.cli.verb import Program


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="meshnode %(version)s")
def program() -> None:
    """Join your own devices into one mesh that serves open-weight language models.

    Run `meshnode up` on the first device and `meshnode join TICKET` on each other one, then point your tools
    at the address that it prints.
    """


for _command in (
    up,
    join,
    invite,
    status,
    peers,
    ping,
    models,
    show,
    pull,
    remove,
    pause,
    resume,
    trust,
    keys,
    audit,
    route,
    run,
    launch,
    doctor,
    logs,
    config,
    service,
    completion,
    version,
):
    program.add_command(_command)
