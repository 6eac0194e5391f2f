"""Arrays in ``.npy`` files."""

import tokenize
import zipfile

# What NumPy raises for files that were cut short or are something else.
UNREADABLE = (
    OSError, ValueError, EOFError, MemoryError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip
