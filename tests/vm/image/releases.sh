# shellcheck shell=bash
# The releases of the kernels that the machines have: A runs at first, updates bring B and C. All are of one length.
# shellcheck disable=SC2034 # for the scripts that source it
A=6.1.192-1591.native B=6.1.192-1592.native C=6.1.192-1593.native
