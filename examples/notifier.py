"""The way from Adobe's Python SDK: notify(options) stands in the place of client.send_notifications(options).

It returns the reply once the events are on stable storage. It raises ValueError where an option is wrong, and TimeoutError
where the daemon did not take the events in time; then they may be stored all the same, so that whoever sends them elsewhere
uses the same `id` and `impressionId`. One Notifier a process will do; threads share it.
"""

import enum, json, os, socket, threading, time, uuid


class Notifier:
    OPTIONS = {"request", "session_id", "target_cookie", "target_location_hint", "consumer_id", "customer_ids"}
    # What the SDK calls back with is returned and raised here.
    CALLBACKS = {"callback", "err_callback"}
    # Where the ids stand that the SDK takes from these.
    ELSEWHERE = {"visitor_cookie", "visitor"}

    def __init__(self, path="/run/target-notifyd.sock", timeout=10):
        self.path, self.timeout = path, timeout
        self.forked()
        os.register_at_fork(after_in_child=self.forked)

    def forked(self):
        # Of one connection in two processes each would read the other's replies.
        self.lock, self.connection, self.replies = threading.Lock(), None, None

    def notify(self, options):
        options = json.loads(json.dumps(self.known(options), default=self.plain))
        # Where there are none the daemon says so.
        for notification in options.get("request", {}).get("notifications") or []:
            # With ids of our own, what is sent again because no reply came counts once.
            notification["id"] = notification.get("id") or str(uuid.uuid4())
            notification["impressionId"] = notification.get("impressionId") or str(uuid.uuid4())
        line, until = json.dumps(options).encode() + b"\n", time.monotonic() + self.timeout
        if not self.lock.acquire(timeout=self.timeout):
            raise TimeoutError("other threads wait for the daemon")
        try:
            while True:
                reply = self.exchange(line, until)
                if reply["status"] == "queued":
                    return reply
                if reply["status"] == "rejected":
                    raise ValueError(": ".join(reply["error"][name] for name in ["path", "message"] if name in reply["error"]))
                wait = reply["retry_after_ms"] / 1000
                if time.monotonic() + wait > until:
                    raise TimeoutError(reply["error"]["message"])
                time.sleep(wait)
        finally:
            self.lock.release()

    def exchange(self, line, until):
        old = self.connection is not None
        try:
            if not old:
                self.connection = socket.socket(socket.AF_UNIX)
            # A daemon that is silent, or whose socket waits for its start, ends nothing by itself.
            self.connection.settimeout(max(until - time.monotonic(), 0.001))
            if not old:
                self.connection.connect(self.path)
                self.replies = self.connection.makefile("rb")
            self.connection.sendall(line)
            return json.loads(self.replies.readline())
        except (OSError, ValueError) as error:
            self.connection = self.replies = None
            # The daemon closes what was idle for long: a new connection may do at once.
            return {"status": "unavailable", "error": {"message": str(error)}, "retry_after_ms": 0 if old else 100}

    @classmethod
    def known(cls, options):
        given = {name: value for name, value in options.items() if value is not None and name not in cls.CALLBACKS}
        for name in given.keys() - cls.OPTIONS:
            if name in cls.ELSEWHERE:
                raise ValueError(f"{name}: put its ids into request.id.marketingCloudVisitorId and request.experienceCloud")
            raise ValueError(f"{name}: is no option of send_notifications")
        return given

    @staticmethod
    def plain(value):
        if isinstance(value, enum.Enum):
            return value.value
        return {api: getattr(value, name) for name, api in value.attribute_map.items() if getattr(value, name) is not None}
