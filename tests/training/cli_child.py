"""Runs train.py once for each line of arguments (JSON) on stdin, in a fork.

Importing before forking spares most of the start. Answers with a line of JSON:
exit code, standard output, standard error.
"""

import json
import os
import runpy
import sys
import tempfile

import jaxinpaint.data.pipeline
import jaxinpaint.systems.ccpgan
import jaxinpaint.training.loop  # noqa: F401


def once(arguments, out, err):
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv = ["train.py", *arguments]
    code = 0
    try:
        runpy.run_path("train.py", run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            once(json.loads(line), out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (out, err):
            file.seek(0)
        print(json.dumps([code, out.read(), err.read()]), flush=True)
