/* Included before each C file of ring by cross/build, which has it compiled with OPENSSL_SMALL: P-256 and
 * curve25519 without their precomputed tables, as ring does on every processor but x86-64 and aarch64.
 * There its Rust half asks for one function more, that multiplies the generator by a public number
 * and may take a time that tells it: the one that takes the same time for every number will do. */
#ifndef __ASSEMBLER__
/* SONDE_RING is what ring puts before each of its names: ring_core_0_17_14__. */
#define SONDE_TEXT_OF(word) #word
#define SONDE_TEXT(word) SONDE_TEXT_OF(word)
void sonde_p256_base(unsigned long *, const unsigned long *)
    __asm__(SONDE_TEXT(SONDE_RING) "p256_point_mul_base");
void sonde_p256_base_vartime(unsigned long *, const unsigned long *)
    __asm__(SONDE_TEXT(SONDE_RING) "p256_point_mul_base_vartime");
__attribute__((weak)) void sonde_p256_base_vartime(unsigned long *product, const unsigned long *number) {
    sonde_p256_base(product, number);
}
#endif
