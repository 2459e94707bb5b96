import sys
import unittest

sys.path.insert(0, "app")
from main import count  # noqa: E402


class TestCount(unittest.TestCase):
    def test_count(self):
        self.assertEqual(count("One two, two"), {"one": 1, "two": 2})
