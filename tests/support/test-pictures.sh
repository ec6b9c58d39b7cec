#!/usr/bin/env bash
# The pictures in docs/: the timeline is what its source gives, the screens are small enough for a page, and those that
# README.md shows are there, with words in place of them. Nothing is drawn, and no terminal is needed.
set -euo pipefail
cd "$(dirname "$0")/../.."

failed=0
wrong() {
    printf 'test-pictures: %s\n' "$*" >&2
    failed=1
}

tests/support/pictures-timeline.py check || failed=1
for picture in docs/*.png; do
    [[ $(head -c 8 "$picture" | od -An -tx1) == ' 89 50 4e 47 0d 0a 1a 0a' ]] || wrong "$picture is not a PNG"
    size=$(wc -c <"$picture")
    ((size < 60000)) || wrong "$picture has $size bytes: 60,000 are too many"
done
# ![words](docs/…) or <img src="docs/…" alt="words">
while read -r shown; do
    picture=$(grep -oE 'docs/[A-Za-z0-9._/-]+' <<<"$shown")
    [[ -s $picture ]] || wrong "README.md shows $picture, which is not there"
    [[ $shown =~ ^'!['[^]]{20} || $shown =~ alt=\"[^\"]{20} ]] || wrong "README.md shows $picture without words for it"
done < <(tr '\n' ' ' <README.md | grep -oE '!\[[^]]*\]\(docs/[^)]*\)|<img [^>]*src="docs/[^>]*>' || true)

exit "$failed"
