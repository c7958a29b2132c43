"""Start several processes on this machine, as torchrun does; for ``dist_train.sh`` and ``dist_test.sh``.

    python tools/launch.py PROCESSES SCRIPT [arguments of the script]

NNODES, NODE_RANK, MASTER_ADDR and PORT are read from the environment.
"""

import sys

from mmkdprune.commands.launch import launch

if __name__ == "__main__":
    launch(sys.argv[1], sys.argv[2:])
