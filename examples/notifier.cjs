// The way from Adobe's Node SDK: notify(options) stands in the place of client.sendNotifications(options).

const net = require("net");
const { randomUUID } = require("crypto");

class Notifier {
  static OPTIONS = ["request", "sessionId", "targetCookie", "targetLocationHint", "consumerId", "customerIds"];

  constructor(path = "/run/target-notifyd.sock", timeout = 10000) {
    Object.assign(this, { path, timeout, stream: null, waiting: [] });
  }

  notify(options) {
    const line = {};
    for (const name of Notifier.OPTIONS) if (options[name] !== undefined) line[name] = options[name];
    // With ids of our own, what is sent again because no reply came counts once.
    const own = (one) => ({ ...one, id: one.id ?? randomUUID(), impressionId: one.impressionId ?? randomUUID() });
    line.request = { ...line.request, notifications: line.request.notifications.map(own) };
    return new Promise((resolve, reject) =>
      this.send({ text: JSON.stringify(line) + "\n", until: Date.now() + this.timeout, resolve, reject }));
  }

  send(call) {
    this.stream ??= this.connect();
    this.waiting.push(call);
    this.stream.write(call.text);
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
      for (const call of lost) this.again(call, failure, 100);
    });
    return stream;
  }

  settle(call, reply) {
    if (reply.status === "queued") call.resolve(reply);
    else if (reply.status === "rejected") call.reject(new Error(`${reply.error.path ?? ""}: ${reply.error.message}`));
    else this.again(call, new Error(reply.error.message), reply.retry_after_ms);
  }

  again(call, error, wait) {
    if (Date.now() > call.until) call.reject(error);
    else setTimeout(() => this.send(call), wait);
  }

  end() {
    this.stream?.end();
  }
}

module.exports = { Notifier };
