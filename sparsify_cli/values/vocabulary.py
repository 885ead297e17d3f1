"""Tokens as a person reads them: pieces of words joined the way their vocabulary means it.

    Ġ or ▁ before a piece    a space belongs before it (byte-level BPE, SentencePiece); Ċ is a line's end
    ## before a piece        no space belongs before it (WordPiece); all others have one
    single characters        joined as they are
    <0xE2> <0x82> <0xAC>     bytes of UTF-8 (SentencePiece): one character
    anything else            words, with spaces between them

Source: conventions of the tokenizers named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MARKS = {"Ġ": " ", "▁": " ", "Ċ": "\n"}
BYTES = re.compile("(<0x[0-9A-Fa-f]{2}>)+")


def spelled(tokens: Sequence[int], words: Sequence[str]) -> str:
    """A text of some tokens; of tokens without a word their numbers.

    Args:
        tokens: ids.
        words: of the whole vocabulary, by id; none = numbers.
    """
    if not words:
        return ", ".join(map(str, tokens))
    pieces = [words[token] if 0 <= token < len(words) else f"<{token}>" for token in tokens]
    if any(word.startswith("##") for word in words):
        return "".join(piece[2:] if piece.startswith("##") else f" {piece}" for piece in pieces).strip(" ")
    glue = "" if _spaced(words) or max(map(len, words)) == 1 else " "
    return BYTES.sub(_decoded, glue.join(_plain(piece) for piece in pieces))


def _decoded(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace("<0x", "").replace(">", "")).decode(errors="replace")


def _spaced(words: Sequence[str]) -> bool:
    return any(word.startswith((" ", "Ġ", "▁")) for word in words)


def _plain(piece: str) -> str:
    for mark, meant in MARKS.items():
        piece = piece.replace(mark, meant)
    return piece
