"""A line of the log for each request, with an id that the client knows too; the log as JSON.

What was asked and answered is not in it. The stock server has no such log.
"""

import json
import logging
import re
import time
import uuid
from datetime import UTC, datetime

HEADER = "x-request-id"  # of HTTP, and of the metadata of gRPC
_ID = re.compile(r"[!-~]{1,128}", re.ASCII)  # such ids are taken as they come

log = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def id_of(given: str | None) -> str:
    """The id that a client gave, or a new one if it gave none that will do."""
    return given if given and _ID.fullmatch(given) else uuid.uuid4().hex


def note(request_id: str, call: str, entrypoint: str, model: str, code: str, begun: float) -> None:
    """Writes the line of a request that is over.

    Args:
      request_id: see `id_of`.
      call: such as "Predict".
      entrypoint: GRPC or REST.
      model: name, as asked for.
      code: how it ended, such as "OK".
      begun: on the clock of `time.monotonic`.
    """
    if not log.isEnabledFor(logging.INFO):
        return
    milliseconds = round(1000 * (time.monotonic() - begun), 3)
    fields = {"request_id": request_id, "call": call, "entrypoint": entrypoint, "model": model,
              "code": code, "milliseconds": milliseconds}  # fmt: skip
    log.info("%s %s of %r: %s in %.1f ms, request %s", entrypoint, call, model, code, milliseconds,
             request_id, extra={"fields": fields})  # fmt: skip
