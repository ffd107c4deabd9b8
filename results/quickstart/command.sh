export OMP_NUM_THREADS=1
mutualnet train --config-file quickstart_shapes --resume
mutualnet evaluate --config-file quickstart_shapes --resume
