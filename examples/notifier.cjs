// The way from Adobe's Node SDK: notify(options) stands in the place of client.sendNotifications(options).
//
// Its promise is kept once the events are on stable storage. It is rejected where an option is wrong, and where the daemon
// did not take the events in time; then they may be stored all the same, so that whoever sends them elsewhere uses the same
// `id` and `impressionId`. One Notifier a process will do; end() closes its connection.

const net = require("net");
const { randomUUID } = require("crypto");

class Notifier {
  static OPTIONS = ["request", "sessionId", "targetCookie", "targetLocationHint", "consumerId", "customerIds"];
  // Where the ids stand that the SDK takes from these.
  static ELSEWHERE = ["visitorCookie", "visitor"];

  constructor(path = "/run/target-notifyd.sock", timeout = 10000) {
    Object.assign(this, { path, timeout, stream: null, waiting: [] });
  }

  async notify(options) {
    const line = Notifier.known(options);
    // With ids of our own, what is sent again because no reply came counts once.
    const own = (one) => ({ ...one, id: one.id ?? randomUUID(), impressionId: one.impressionId ?? randomUUID() });
    // Where there are none the daemon says so.
    line.request = { ...line.request, notifications: line.request?.notifications?.map(own) };
    return new Promise((resolve, reject) =>
      this.send({ text: JSON.stringify(line) + "\n", until: Date.now() + this.timeout, resolve, reject }));
  }

  static known(options) {
    const given = Object.entries(options).filter(([, value]) => value !== undefined && value !== null);
    for (const [name] of given) {
      if (Notifier.ELSEWHERE.includes(name))
        throw new Error(`${name}: put its ids into request.id.marketingCloudVisitorId and request.experienceCloud`);
      if (!Notifier.OPTIONS.includes(name)) throw new Error(`${name}: is no option of sendNotifications`);
    }
    return Object.fromEntries(given);
  }

  send(call) {
    const stream = (this.stream ??= this.connect());
    this.waiting.push(call);
    // A daemon that is silent, or whose socket waits for its start, ends nothing by itself.
    call.timer = setTimeout(() => stream.destroy(new Error("no reply in time")), call.until - Date.now());
    stream.write(call.text);
  }

  connect() {
    const stream = net.connect(this.path);
    let text = "", failure = new Error("the connection ended");
    stream.setEncoding("utf8");
    stream.on("data", (more) => {
      const lines = (text + more).split("\n");
      text = lines.pop();
      for (const line of lines) this.settle(this.waiting.shift(), JSON.parse(line));
    });
    stream.on("error", (error) => (failure = error));
    stream.on("close", () => {
      const lost = this.waiting.splice(0);
      this.stream = null;
      for (const call of lost) this.settle(call, { status: "unavailable", error: failure, retry_after_ms: 100 });
    });
    return stream;
  }

  settle(call, reply) {
    clearTimeout(call.timer);
    if (reply.status === "queued") call.resolve(reply);
    else if (reply.status === "rejected")
      call.reject(new Error([reply.error.path, reply.error.message].filter(Boolean).join(": ")));
    else if (Date.now() + reply.retry_after_ms > call.until) call.reject(new Error(reply.error.message));
    else setTimeout(() => this.send(call), reply.retry_after_ms);
  }

  end() {
    this.stream?.end();
  }
}

module.exports = { Notifier };
