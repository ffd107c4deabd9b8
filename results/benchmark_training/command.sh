export OMP_NUM_THREADS=1
LD_PRELOAD=libtcmalloc_minimal.so.4 mutualnet benchmark-training --rounds 30 MUTUALNET.NUM_RANDOM 2
