#!/bin/sh
# wget is needed
wget https://example.org/linux.tar.xz
