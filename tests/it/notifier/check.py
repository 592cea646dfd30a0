"""Tries examples/notifier.py: check.py SOCKET. It asks for a restart by the line "restart", and waits for one back."""

import enum, sys

from notifier import Notifier

class Model:
    attribute_map = {"event_token": "eventToken", "page_load": "pageLoad"}
    def __init__(self, map, **values):
        self.attribute_map = map
        self.__dict__.update({name: None for name in map}, **values)
class Kind(enum.Enum):
    DISPLAY = "display"
def options(id):
    notification = Model({"id": "id", "type": "type", "mbox": "mbox", "page_load": "pageLoad", "tokens": "tokens", "impression_id": "impressionId"},
        id=id, type=Kind.DISPLAY, mbox={"name": "home", "state": "s"}, tokens=["t"])
    customer = Model({"id": "id", "integration_code": "integrationCode", "authenticated_state": "authenticatedState"}, id="c", integration_code="crm", authenticated_state="unknown")
    return {"request": Model({"notifications": "notifications", "context": "context"}, notifications=[notification]), "session_id": "py",
        "customer_ids": [customer], "callback": print}
notifier = Notifier(sys.argv[1], timeout=120)
assert notifier.notify(options("1"))["ids"] == ["1"]
print("restart", flush=True)
sys.stdin.readline()
assert notifier.notify(options(None))["session_id"] == "py"
try:
    notifier.notify({"request": {"notifications": [{"type": "shown"}]}})
    sys.exit("a wrong option went through")
except ValueError as error:
    assert "notifications[0].type" in str(error), error
