#include <math.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
	(void)argv;
	printf("hello from user %d, sqrt(2) is %.4f\n", (int)getuid(), sqrt(argc + 1));
	return 0;
}
