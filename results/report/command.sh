export OMP_NUM_THREADS=1
make quickstart
mutualnet train --config-file quickstart_shapes MUTUALNET.METHOD independent OUTPUT_DIR output/independent
mutualnet evaluate --config-file quickstart_shapes --points 1.0x64 1.0x160 \
    MUTUALNET.METHOD independent OUTPUT_DIR output/independent
mutualnet report output/quickstart output/independent --names MutualNet "trained alone"
