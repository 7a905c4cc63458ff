"""The hourly tumbling window in Quix Streams: python quix_tumbling.py FILE BROKER COUNT [PROCESSES]. Prints JSON.

BROKER is host:port, or `noida` for one of its own (the package noida-db), which is stopped at the end. The first COUNT orders are put
into fresh topics, one for each process (1 by default), which is not timed. The clock runs from the first order until the last is
counted, all windows are closed, and the state is committed; starting interpreters and joining groups is not counted, nor what the
broker takes of a processor. Leaves with an error unless every order was counted once.

What was tried (Quix Streams 3.28.1, Python 3.11, two cores that other work also used; the first of ten million orders over 35 days, noida,
the better of two runs, in thousands of orders a second; the first two lines with 100,000 orders, the others with 60,000 in one process):

    1 process                                               25
    2 processes                                             45
    final, closed by partition (as here)                    24
    the same, committed each second / at the end         23 / 25 (it is each 5 s)
    the same with `agg(Count(), Sum())`                     23
    the same with the cyclic garbage collector on           25 (19 in the other run)
    current, closed by partition                            24
    final / current, closed by key                       22 / 21

Changelog topics are off. Closed by key, a window stays open until its customer orders again, so most would not be closed at all.
"""
import gc
import json
import multiprocessing
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import timedelta

QUIET = {"log_level": 2}
# noida answers a fetch with the whole log, and at once where there is nothing new. With as much as librdkafka wants to have in advance
# (100,000 messages) it would ask 10,000 times a second, and so take half a core from the application.
ONE_FETCH = {"queued.min.messages": 1}
SECONDS = 60


class Noida:
    """A Kafka broker for as long as the script runs."""

    def __init__(self, directory):
        import noida_db

        folder = pathlib.Path(noida_db.__file__).parent
        binary = next(path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > 1_000_000)
        binary.chmod(0o755)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.process = subprocess.Popen([binary, "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", directory],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        sys.exit("the broker did not start")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def produce(path, broker, topics, count):
    """The first orders of a file, customers spread over the topics. Returns how many messages each topic got."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": broker, **QUIET})
    for made in admin.create_topics([NewTopic(name, 1, 1, config={"retention.ms": "-1"}) for name in topics]).values():
        made.result(SECONDS)
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000, **QUIET})
    failed = []
    report = lambda error, _: failed.append(error) if error else None
    produced = [0] * len(topics)
    latest = 0
    with open(path, "rb") as lines:
        for _, line in zip(range(count), lines):
            order = json.loads(line)
            topic = order["customer"] % len(topics)
            producer.produce(topics[topic], line.rstrip(), str(order["customer"]), 0, timestamp=order["event_time"], on_delivery=report)
            produced[topic] += 1
            latest = max(latest, order["event_time"])
            producer.poll(0)
    # One more that closes all windows, as the end of a file does elsewhere. It is in none that closes.
    for number, topic in enumerate(topics):
        producer.produce(topic, b'{"customer":-1,"event_time":0,"price":0}', "-1", 0, timestamp=latest + 86_400_000, on_delivery=report)
        produced[number] += 1
    if producer.flush(SECONDS) > 0 or failed:
        sys.exit(f"could not produce: {failed[:1]}")
    if sum(produced) != count + len(topics):
        sys.exit(f"{path} has no {count} lines")
    return produced


def work(broker, topic, messages, directory, extra, link):
    """Reads one topic to its end. Sends a word when it has the first message, and waits for one before it goes on."""
    from quixstreams import Application

    app = Application(broker, consumer_group=topic, auto_offset_reset="earliest", state_dir=directory, use_changelog_topics=False,
                      loglevel="ERROR", consumer_extra_config={"receive.message.max.bytes": 1_000_000_000, **QUIET, **extra},
                      producer_extra_config=QUIET)
    seen = late = counted = windows = 0
    cpu = 0.0

    def count(_):
        nonlocal seen, cpu
        if seen == 0:
            link.send("ready")
            link.recv()
            cpu = time.process_time()
        seen += 1
        if seen == messages:
            app.stop()

    def count_late(*_):
        nonlocal late
        late += 1
        return False

    def count_window(window):
        nonlocal counted, windows
        orders, total = window["value"]
        mean = total / orders
        counted += orders
        windows += 1

    orders = app.dataframe(app.topic(topic, key_deserializer="bytes", value_deserializer="json")).update(count)
    (orders.tumbling_window(timedelta(hours=1), grace_ms=timedelta(seconds=5), on_late=count_late)
     .reduce(lambda sums, order: (sums[0] + 1, sums[1] + order["price"]), lambda order: (1, order["price"]))
     .final(closing_strategy="partition")
     .update(count_window))
    gc.disable()
    app.run(timeout=15, collect=False)
    link.send({"end": time.monotonic(), "cpu": time.process_time() - cpu, "counted": counted, "windows": windows, "late": late})


def main():
    path, broker, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    processes = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    directory = tempfile.mkdtemp()
    own = Noida(directory + "/broker") if broker == "noida" else None
    workers = []
    try:
        address = own.address if own else broker
        topics = [f"orders-{uuid.uuid4()}" for _ in range(processes)]
        produced = produce(path, address, topics, count)
        context = multiprocessing.get_context("spawn")
        links = []
        for topic, messages in zip(topics, produced):
            here, there = context.Pipe()
            arguments = (address, topic, messages, f"{directory}/{topic}", ONE_FETCH if own else {}, there)
            workers.append(context.Process(target=work, args=arguments, daemon=True))
            workers[-1].start()
            there.close()
            links.append(here)

        def hear(link, seconds=SECONDS):
            if not link.poll(seconds):
                sys.exit("an application does not answer")
            try:
                return link.recv()
            except EOFError:
                sys.exit("an application has ended")

        for link in links:
            if hear(link) != "ready":
                sys.exit("an application got no orders")
        start = time.monotonic()
        for link in links:
            link.send("go")
        ends = [hear(link, SECONDS + count / 1_000) for link in links]
        counted, late = sum(end["counted"] for end in ends), sum(end["late"] for end in ends)
        if counted != count or late != 0:
            sys.exit(f"{counted} of {count} orders counted, {late} late")
        print(json.dumps({"processes": processes, "orders": counted, "windows": sum(end["windows"] for end in ends)}))
        print(json.dumps({"wall_seconds": max(end["end"] for end in ends) - start, "cpu_seconds": sum(end["cpu"] for end in ends)}))
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        if own:
            own.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
