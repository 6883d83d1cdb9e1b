"""Mathematics and code: ordinary work full of rough words, with right results."""

from random import Random

from streamward.schema import RiskLevel
from streamward.train.synthesize.lexicon import Lexicon
from streamward.train.synthesize.rows import SyntheticResponse, SyntheticRow

_NAMES = ("Ana", "Bo", "Chidi", "Dilek", "Emre", "Fatou", "Goran", "Hana", "Ines", "Jun", "Kofi", "Lena")
_GOODS = ("apples", "tickets", "books", "pens", "cakes", "stamps", "bullet journals", "killer sudokus", "bath bombs")
_PYTHON = (
    ("kill a child process by its id", "os.kill(pid, signal.SIGTERM)", "import os, signal"),
    ("stop a subprocess that hangs", "process.kill()", "import subprocess"),
    ("catch a fatal exception and log it", "logger.exception('fatal')", "import logging"),
    ("drop duplicate rows from a data frame", "frame = frame.drop_duplicates()", "import pandas as pd"),
    ("execute a query with parameters, safe from injection", "cursor.execute(sql, (name,))", "import sqlite3"),
    ("strip white space from every line", "lines = [line.strip() for line in file]", ""),
    (
        "hash a password with a salt",
        "digest = hashlib.scrypt(password, salt=salt, n=2**14, r=8, p=1)",
        "import hashlib",
    ),
    ("abort a script with exit code 2", "sys.exit(2)", "import sys"),
    ("detect dead links on my own site", "status = httpx.head(url).status_code", "import httpx"),
    ("shoot a screenshot every minute on my own machine", "image = ImageGrab.grab()", "from PIL import ImageGrab"),
    ("split a string at commas", "parts = text.split(',')", ""),
    ("attack a sorting problem with a heap", "heapq.heapify(numbers)", "import heapq"),
)
_DEFENCE = (
    ("list which ports of my own machine are open", "ss -tulpn"),
    ("see who tried to log in to my server", "journalctl -u ssh | grep 'Failed password'"),
    ("scan a folder for malware", "clamscan -r --infected ./downloads"),
    ("check my TLS set-up for weak ciphers", "testssl.sh example.org"),
    ("find world-writable files before an attacker does", "find / -xdev -type f -perm -0002"),
    ("capture my own traffic on port 53 to debug DNS", "tcpdump -i eth0 port 53"),
    ("scan my Python dependencies for known exploits", "pip-audit"),
    ("fuzz the parser of my own library", "cargo fuzz run parse"),
    ("drop packets from an address that attacks me", "iptables -A INPUT -s 203.0.113.7 -j DROP"),
    ("rotate a secret that leaked into git", "git filter-repo --replace-text secrets.txt"),
    ("test a login form of my own app for injection", "sqlmap -u http://localhost:8000/login --forms"),
    ("lock an account after five bad passwords", "faillock --user ana"),
)
_SHELL = (
    ("kill everything that listens on port {n}", "fuser -k {n}/tcp"),
    ("find files larger than {n} MB", "find . -size +{n}M"),
    ("show the last {n} failed logins on my server", "lastb -n {n}"),
    ("ban an address after {n} wrong passwords", "maxretry = {n}   # jail.local of fail2ban"),
    ("wipe a test database and load the dump of day {n}", "dropdb test && createdb test && psql test < day{n}.sql"),
    ("destroy the container called job{n}", "docker rm -f job{n}"),
    ("cut the first {n} columns of a file", "cut -d, -f1-{n} file.csv"),
)
_REQUESTS = ("How do I {what}?", "{what}", "Write code to {what}.", "I need to {what}. What's the command?")


def computing(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Make a sum, a word problem, an equation, a piece of Python or a shell command, with its answer."""
    if lexicon.language != "en":
        return None
    prompt, answer, topic = rng.choice(_KINDS)(rng)
    row = SyntheticRow("en", "computing", topic, f"{topic} {prompt[:60]}", prompt, RiskLevel.SAFE)
    return row if rng.random() < 0.2 else row.answered(SyntheticResponse(answer, RiskLevel.SAFE))


def _sum(rng: Random) -> tuple[str, str, str]:
    a, b = rng.randint(11, 999), rng.randint(11, 99)
    ask = rng.choice(("What is {a} * {b}?", "{a} times {b}", "Multiply {a} by {b} and show the steps."))
    tens, ones = b // 10 * 10, b % 10
    answer = f"{a} * {b} = {a} * {tens} + {a} * {ones} = {a * tens} + {a * ones} = **{a * b}**"
    return ask.format(a=a, b=b), answer, "sum"


def _word_problem(rng: Random) -> tuple[str, str, str]:
    name, other = rng.sample(_NAMES, 2)
    goods, many, given = rng.choice(_GOODS), rng.randint(20, 90), rng.randint(3, 19)
    prompt = f"{name} has {many} {goods} and gives {given} to {other}. How many are left, and what is half of that?"
    left = many - given
    return prompt, f"{many} - {given} = {left} {goods} are left. Half of that is {left / 2:g}.", "word problem"


def _equation(rng: Random) -> tuple[str, str, str]:
    a, x, b = rng.randint(2, 12), rng.randint(-9, 15), rng.randint(1, 40)
    c = a * x + b
    prompt = rng.choice(("Solve {a}x + {b} = {c}.", "find x: {a}x+{b}={c}", "What is x if {a}x + {b} = {c}?"))
    answer = f"Subtract {b} on both sides: {a}x = {c - b}.\nDivide by {a}: **x = {x}**."
    return prompt.format(a=a, b=b, c=c), answer, "equation"


def _percentage(rng: Random) -> tuple[str, str, str]:
    share, whole = rng.randint(1, 19) * 5, rng.randint(2, 60) * 20
    prompt = rng.choice(("What is {p} % of {w}?", "A coat costs {w} and is {p} % off. How much do I save?"))
    return prompt.format(p=share, w=whole), f"{share} / 100 * {whole} = {share * whole / 100:g}", "percentage"


def _python(rng: Random) -> tuple[str, str, str]:
    what, line, imports = rng.choice(_PYTHON)
    head = f"{imports}\n\n" if imports else ""
    prompt = rng.choice(_REQUESTS).format(what=f"{what} in Python")
    return prompt, f"```python\n{head}{line}\n```\n\nTry it on a copy first.", "python"


def _shell(rng: Random) -> tuple[str, str, str]:
    what, command = rng.choice(_SHELL)
    number = rng.randint(2, 9000)
    prompt = rng.choice(_REQUESTS).format(what=what.format(n=number))
    return prompt, f"```\n{command.format(n=number)}\n```", "shell"


def _defence(rng: Random) -> tuple[str, str, str]:
    what, command = rng.choice(_DEFENCE)
    ask = rng.choice(
        (*_REQUESTS, "I'm a sysadmin and want to {what}.", "For our security audit: {what}", "Help me {what}.")
    )
    return ask.format(what=what), f"```\n{command}\n```\n\nRun it on systems that are yours.", "defence"


_KINDS = (_sum, _word_problem, _equation, _percentage, _python, _python, _shell, _defence, _defence)
