"""The command `serve`: generate trips and predict next steps over HTTP."""

from __future__ import annotations

import argparse
import signal
import sys

from hoser_kd.cli.command import AddCommand, device_of
from hoser_kd.cli.student_argument import add_student_argument, student_path
from hoser_kd.common.errors import ConfigError

_LOCAL = ("127.0.0.1", "localhost", "::1")
_GRACE_S = 30


def add_serve_commands(command: AddCommand) -> None:
    """Add the commands for servers."""
    serve = command("serve", "Serve a student over HTTP: generate trips, predict next steps.", _serve)
    add_student_argument(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=8000, help="port (default 8000; 0 takes a free one)")
    serve.add_argument("--cuda", type=int, help="number of the GPU, -1 for the CPU (default: a GPU if there is one)")
    serve.add_argument("--max-waiting", type=_positive, default=64, help="requests that may wait (default 64)")
    serve.add_argument("--max-trips", type=_positive, default=256, help="trips per request (default 256)")
    serve.add_argument("--max-steps", type=_positive, default=5000, help="expansions per trip (default 5000)")
    serve.add_argument(
        "--allow-host", nargs="+", metavar="NAME", help="host names that requests may use (default: this machine's own)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    try:
        import uvicorn

        from hoser_kd.serving.app import create_app
    except ImportError as error:
        raise ConfigError(f"serve needs the extra `serve` ({error}). Run pip install 'hoser-kd[serve]'.") from None
    from hoser_kd.common.device import pick_device
    from hoser_kd.serving.predictor import Predictor
    from hoser_kd.serving.requests import Limits
    from hoser_kd.sharing.loading import load_student

    source = student_path(options)
    try:
        predictor = Predictor(load_student(source).to(pick_device(device_of(options))))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: cannot be served: {error}") from None
    limits = Limits(waiting=options.max_waiting, trips=options.max_trips, expansions=options.max_steps)
    hosts = options.allow_host or (_LOCAL if options.host in _LOCAL else ("*",))
    app = create_app(predictor, limits, name=source, hosts=hosts)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_GRACE_S,
        # connections beyond those that can wait are refused before they cost memory
        limit_concurrency=options.max_waiting * 4,
    )
    # uvicorn raises a signal again after its shutdown; ignored here, so that a clean shutdown is status 0
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = uvicorn.Server(config)
    sys.stderr.write(f"serving {source} at http://{options.host}:{options.port}; Ctrl-C ends it\n")
    server.run()
    return 0 if server.started else 1
