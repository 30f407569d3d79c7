#define WB_KEY 4
#include "hash.h"
