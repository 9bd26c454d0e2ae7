#!/bin/sh
# Makes the fonts of this folder from the Debian package fonts-noto-core.
# usage: subset.sh FOLDER-OF-NOTO-TTFS OUTPUT-FOLDER   (needs pyftsubset, from the Python package fonttools)
set -eu
from=$1
to=$2

subset() {
    pyftsubset "$from/$1-Regular.ttf" --output-file="$to/$1-subset.ttf" --unicodes="$2" \
        --no-hinting --layout-features='' --drop-tables+=GSUB,GPOS,GDEF,DSIG --notdef-outline --name-IDs='*'
}

# Latin with its diacritics (also the romanisation letters of U+1E00), combining marks, Greek and Russian letters,
# general punctuation, the dotted circle and the replacement character.
subset NotoSans 'U+0020-007E,U+00A0-017F,U+0186-01FF,U+0218-021B,U+0237,U+0250-036F,U+0370-03FF,U+0400-045F,U+1E00-1EFF,U+2010-2026,U+2030-203A,U+20AC,U+25CC,U+FFFD'
subset NotoSansArabic 'U+0600-06FF,U+0750-077F,U+25CC'
subset NotoSansKhmer 'U+1780-17FF,U+19E0-19FF,U+25CC'
subset NotoSansDevanagari 'U+0900-097F,U+1CD0-1CFA,U+A8E0-A8FF,U+25CC'
subset NotoSansBengali 'U+0980-09FF,U+25CC'
subset NotoSansTamil 'U+0B80-0BFF,U+25CC'
# Arrows, minus, comparison signs; and the visible space.
subset NotoSansMath 'U+2190-2194,U+2212,U+2260,U+2264,U+2265'
subset NotoSansSymbols2 'U+2423'
