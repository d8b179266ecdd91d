"""Lets every test import the testbed, and the collection as Ansible does, wherever it lies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
COLLECTIONS = str(ROOT / ".collections")
sys.path[:0] = [str(ROOT / "tests" / "testbed"), COLLECTIONS]
# Where pytest-ansible lets Ansible's own loader look.
os.environ["ANSIBLE_COLLECTIONS_PATH"] = COLLECTIONS
# How long one example takes says nothing where a compiler runs beside it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
