"""Counts the words of files."""
import collections
import re
import sys


def count(text):
    return collections.Counter(re.findall(r"\w+", text.lower()))


def main():
    total = collections.Counter()
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as f:
            total += count(f.read())
    for word, n in sorted(total.items(), key=lambda x: (-x[1], x[0]))[:10]:
        print(f"{n:5} {word}")
