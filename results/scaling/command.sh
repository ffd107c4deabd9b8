OMP_NUM_THREADS=1 mutualnet benchmark-scaling --config-file quickstart_shapes \
    --processes 1 2 4 --steps 10 SOLVER.IMS_PER_BATCH 1
