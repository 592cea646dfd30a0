"""Tries examples/notifier.py: check.py SOCKET SILENT. It asks for a restart by the line "restart", and waits for one back."""

import enum, os, sys, time

from notifier import Notifier

SOCKET, SILENT = sys.argv[1:]


class Model:
    def __init__(self, map, **values):
        self.attribute_map = map
        self.__dict__.update({name: None for name in map}, **values)


class Kind(enum.Enum):
    DISPLAY = "display"


def options(id, session="py"):
    notification = Model(
        {"id": "id", "type": "type", "mbox": "mbox", "page_load": "pageLoad", "tokens": "tokens", "impression_id": "impressionId"},
        id=id, type=Kind.DISPLAY, mbox={"name": "home", "state": "s"}, tokens=["t"])
    customer = Model({"id": "id", "integration_code": "integrationCode", "authenticated_state": "authenticatedState"},
        id="c", integration_code="crm", authenticated_state="unknown")
    return {"request": Model({"notifications": "notifications", "context": "context"}, notifications=[notification]),
        "session_id": session, "customer_ids": [customer], "callback": print, "visitor": None}


def raised(kind, notifier, options):
    try:
        notifier.notify(options)
    except kind as error:
        return str(error)
    sys.exit(f"{options} went through")


notifier = Notifier(SOCKET, timeout=120)
assert notifier.notify(options("1"))["ids"] == ["1"]

print("restart", flush=True)
sys.stdin.readline()
# The connection that was closed meanwhile costs no wait.
waits, sleep = [], time.sleep
time.sleep = waits.append
assert notifier.notify(options(None))["session_id"] == "py" and waits == [0], waits
time.sleep = sleep

said = raised(ValueError, notifier, {"request": {"notifications": [{"type": "shown"}]}})
assert "notifications[0].type" in said, said
assert raised(ValueError, notifier, {}) == "request: is required"
assert raised(ValueError, notifier, {"request": {}}) == "request.notifications: is required"
for name in ["visitor_cookie", "visitor"]:
    said = raised(ValueError, notifier, {**options("1"), name: "x"})
    assert said.startswith(name) and "marketingCloudVisitorId" in said, said
assert "sesion_id" in raised(ValueError, notifier, {**options("1"), "sesion_id": "x"})

# Each process reads its own replies, whoever has a connection as it forks.
workers = []
for worker in range(4):
    workers.append(os.fork())
    if workers[-1] == 0:
        names = [f"worker-{worker}-{number}" for number in range(25)]
        os._exit(0 if [notifier.notify(options(None, name))["session_id"] for name in names] == names else 1)
assert all(os.waitpid(worker, 0)[1] == 0 for worker in workers), "a worker got another's reply"

# A daemon that takes the connection and says nothing.
silent = Notifier(SILENT, timeout=0.05)
raised(TimeoutError, silent, options("1"))
with silent.lock:
    assert "other threads" in raised(TimeoutError, silent, options("1"))
