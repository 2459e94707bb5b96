#include "textflag.h"

// func vfork(args unsafe.Pointer, size uintptr) (pid, errno uintptr)
//
// The child runs on the same stack while the parent waits, and overwrites what
// lies below, the return address of this function among it: that waits in a
// register, of which each of the two has its own.
TEXT ·vfork(SB),NOSPLIT|NOFRAME,$0-32
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	$435, AX	// clone3
	POPQ	R12
	SYSCALL
	PUSHQ	R12
	CMPQ	AX, $0xfffffffffffff001
	JLS	ok
	MOVQ	$0, pid+16(FP)
	NEGQ	AX
	MOVQ	AX, errno+24(FP)
	RET
ok:
	MOVQ	AX, pid+16(FP)
	MOVQ	$0, errno+24(FP)
	RET
