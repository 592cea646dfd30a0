"""The way from Adobe's Python SDK: notify(options) stands in the place of client.send_notifications(options)."""

import enum, json, socket, threading, time, uuid


class Notifier:
    OPTIONS = {"request", "session_id", "target_cookie", "target_location_hint", "consumer_id", "customer_ids"}

    def __init__(self, path="/run/target-notifyd.sock", timeout=10):
        self.path, self.timeout, self.lock, self.stream = path, timeout, threading.Lock(), None

    def notify(self, options):
        options = {name: value for name, value in options.items() if name in self.OPTIONS}
        options = json.loads(json.dumps(options, default=self.plain))
        for notification in options["request"]["notifications"]:
            # With ids of our own, what is sent again because no reply came counts once.
            notification["id"] = notification.get("id") or str(uuid.uuid4())
            notification["impressionId"] = notification.get("impressionId") or str(uuid.uuid4())
        line, until = json.dumps(options).encode() + b"\n", time.monotonic() + self.timeout
        with self.lock:
            while True:
                reply = self.exchange(line)
                if reply["status"] == "queued":
                    return reply
                if reply["status"] == "rejected":
                    raise ValueError("{path}: {message}".format(**{"path": "", **reply["error"]}))
                if time.monotonic() > until:
                    raise TimeoutError(reply["error"]["message"])
                time.sleep(reply["retry_after_ms"] / 1000)

    def exchange(self, line):
        try:
            if self.stream is None:
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(self.timeout)
                connection.connect(self.path)
                self.stream = connection.makefile("rwb")
            self.stream.write(line)
            self.stream.flush()
            return json.loads(self.stream.readline())
        except (OSError, ValueError) as error:
            self.stream = None
            return {"status": "unavailable", "error": {"message": str(error)}, "retry_after_ms": 100}

    @staticmethod
    def plain(value):
        if isinstance(value, enum.Enum):
            return value.value
        return {api: getattr(value, name) for name, api in value.attribute_map.items() if getattr(value, name) is not None}
