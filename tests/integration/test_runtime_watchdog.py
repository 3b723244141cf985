"""The watchdog ends a process that cannot end by itself, with the exit code it was told."""

import json
import subprocess
import sys

SCRIPT = """
import json, logging, os, sys, threading, time
from app.infrastructure.logging import configure_logging
from app.server.watchdog import Watchdog

configure_logging("json", "info")

def hang_in_a_thread():
    threading.Thread(target=lambda: time.sleep(60)).start()

def hang():
    time.sleep(60)

def hang_with_the_log():
    [each.acquire() for each in logging.getLogger().handlers]
    time.sleep(60)

def in_time():
    pass

codes = {}
for end in (hang_in_a_thread, hang, hang_with_the_log, in_time):
    child = os.fork()
    if child == 0:
        dog = Watchdog()
        dog.allow(60, 9)
        if end is not in_time:
            dog.allow(0.3, 7)  # the later word counts
            end()
        threading._shutdown()  # as at the end of a process: waits for threads
        os._exit(3)
    codes[end.__name__] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


def test_neither_a_thread_nor_the_main_one_nor_the_log_keeps_a_process_past_its_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], timeout=60, check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {
        "hang_in_a_thread": 7,
        "hang": 7,
        "hang_with_the_log": 7,
        "in_time": 3,
    }
