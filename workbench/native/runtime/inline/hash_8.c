#define WB_KEY 8
#include "hash.h"
