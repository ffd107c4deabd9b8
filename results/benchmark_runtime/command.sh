OMP_NUM_THREADS=1 mutualnet benchmark-runtime output/quickstart
