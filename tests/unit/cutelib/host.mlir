"builtin.module"() ({
  "llvm.func"() <{sym_name = "_cudaLaunchKernelEx", visibility_ = 0 : i64}> ({
  }) : () -> ()
  "llvm.func"() <{sym_name = "cutlass_k_of_x", visibility_ = 0 : i64}> ({
  ^bb0(%arg0: !llvm.struct<(ptr<1>, struct<(struct<(i32, i32)>, struct<(i64)>)>)>, %arg1: f32, %arg2: !llvm.ptr):
    %one = "llvm.mlir.constant"() <{value = 1 : i32}> : () -> i32
    %zero = "llvm.mlir.constant"() <{value = 0 : i32}> : () -> i32
    %tile = "llvm.mlir.constant"() <{value = 128 : i32}> : () -> i32
    %smem = "llvm.mlir.constant"() <{value = 4096 : i64}> : () -> i64
    %rows = "llvm.extractvalue"(%arg0) <{position = array<i64: 1, 0, 0>}> : (!llvm.struct<(ptr<1>, struct<(struct<(i32, i32)>, struct<(i64)>)>)>) -> i32
    %step = "llvm.extractvalue"(%arg0) <{position = array<i64: 1, 1, 0>}> : (!llvm.struct<(ptr<1>, struct<(struct<(i32, i32)>, struct<(i64)>)>)>) -> i64
    %at = "llvm.extractvalue"(%arg0) <{position = array<i64: 0>}> : (!llvm.struct<(ptr<1>, struct<(struct<(i32, i32)>, struct<(i64)>)>)>) -> !llvm.ptr<1>
    %next = "llvm.getelementptr"(%at) <{elem_type = bf16, rawConstantIndices = array<i32: 24>}> : (!llvm.ptr<1>) -> !llvm.ptr<1>
    // the grid goes here
    %config = "llvm.alloca"(%one) <{elem_type = !llvm.struct<(array<3 x i32>, array<3 x i32>, i64, ptr, ptr, i32)>}> : (i32) -> !llvm.ptr
    %attributes = "llvm.alloca"(%one) <{elem_type = !llvm.array<17 x struct<(i32, array<4 x i8>, array<64 x i8>)>>}> : (i32) -> !llvm.ptr
    %p4 = "llvm.getelementptr"(%config) <{elem_type = !llvm.struct<(array<3 x i32>, array<3 x i32>, i64, ptr, ptr, i32)>, rawConstantIndices = array<i32: 0, 4>}> : (!llvm.ptr) -> !llvm.ptr
    "llvm.store"(%attributes, %p4) <{ordering = 0 : i64}> : (!llvm.ptr, !llvm.ptr) -> ()
    %sizes = "llvm.mlir.poison"() : () -> !llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>
    %g = "llvm.insertvalue"(%sizes, %grid) <{position = array<i64: 0, 0>}> : (!llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>, i32) -> !llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>
    %h = "llvm.insertvalue"(%g, %one) <{position = array<i64: 0, 1>}> : (!llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>, i32) -> !llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>
    %i = "llvm.insertvalue"(%h, %one) <{position = array<i64: 0, 2>}> : (!llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>, i32) -> !llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>
    %j = "llvm.insertvalue"(%i, %tile) <{position = array<i64: 1, 0>}> : (!llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>, i32) -> !llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>
    %k = "llvm.insertvalue"(%j, %one) <{position = array<i64: 1, 1>}> : (!llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>, i32) -> !llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>
    %l = "llvm.insertvalue"(%k, %one) <{position = array<i64: 1, 2>}> : (!llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>, i32) -> !llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>
    %m = "llvm.insertvalue"(%l, %smem) <{position = array<i64: 2>}> : (!llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>, i64) -> !llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>
    "llvm.store"(%m, %config) <{ordering = 0 : i64}> : (!llvm.struct<(array<3 x i32>, array<3 x i32>, i64)>, !llvm.ptr) -> ()
    %p5 = "llvm.getelementptr"(%config) <{elem_type = !llvm.struct<(array<3 x i32>, array<3 x i32>, i64, ptr, ptr, i32)>, rawConstantIndices = array<i32: 0, 5>}> : (!llvm.ptr) -> !llvm.ptr
    "llvm.store"(%one, %p5) <{ordering = 0 : i64}> : (i32, !llvm.ptr) -> ()
    %six = "llvm.mlir.constant"() <{value = 6 : i32}> : () -> i32
    "llvm.store"(%six, %attributes) <{ordering = 0 : i64}> : (i32, !llvm.ptr) -> ()
    %value = "llvm.getelementptr"(%attributes) <{elem_type = !llvm.struct<(i32, array<4 x i8>, array<64 x i8>)>, rawConstantIndices = array<i32: 0, 2>}> : (!llvm.ptr) -> !llvm.ptr
    "llvm.store"(%one, %value) <{ordering = 0 : i64}> : (i32, !llvm.ptr) -> ()
    %list = "llvm.alloca"(%tile) <{elem_type = !llvm.ptr}> : (i32) -> !llvm.ptr
    %p = "llvm.alloca"(%one) <{elem_type = !llvm.struct<(ptr<1>, i32, i64)>}> : (i32) -> !llvm.ptr
    %a = "llvm.mlir.poison"() : () -> !llvm.struct<(ptr<1>, i32, i64)>
    %b = "llvm.insertvalue"(%a, %next) <{position = array<i64: 0>}> : (!llvm.struct<(ptr<1>, i32, i64)>, !llvm.ptr<1>) -> !llvm.struct<(ptr<1>, i32, i64)>
    %c = "llvm.insertvalue"(%b, %rows) <{position = array<i64: 1>}> : (!llvm.struct<(ptr<1>, i32, i64)>, i32) -> !llvm.struct<(ptr<1>, i32, i64)>
    %d = "llvm.insertvalue"(%c, %step) <{position = array<i64: 2>}> : (!llvm.struct<(ptr<1>, i32, i64)>, i64) -> !llvm.struct<(ptr<1>, i32, i64)>
    "llvm.store"(%d, %p) <{ordering = 0 : i64}> : (!llvm.struct<(ptr<1>, i32, i64)>, !llvm.ptr) -> ()
    "llvm.store"(%p, %list) <{ordering = 0 : i64}> : (!llvm.ptr, !llvm.ptr) -> ()
    %q = "llvm.alloca"(%one) <{elem_type = f32}> : (i32) -> !llvm.ptr
    "llvm.store"(%arg1, %q) <{ordering = 0 : i64}> : (f32, !llvm.ptr) -> ()
    %second = "llvm.getelementptr"(%list, %one) <{elem_type = !llvm.ptr, rawConstantIndices = array<i32: -2147483648>}> : (!llvm.ptr, i32) -> !llvm.ptr
    "llvm.store"(%q, %second) <{ordering = 0 : i64}> : (!llvm.ptr, !llvm.ptr) -> ()
    %global = "llvm.mlir.addressof"() <{global_name = @kernels_sym}> : () -> !llvm.ptr
    %kernel = "llvm.load"(%global) <{ordering = 0 : i64}> : (!llvm.ptr) -> !llvm.ptr
    %status = "llvm.call"(%config, %kernel, %list) <{callee = @_cudaLaunchKernelEx}> : (!llvm.ptr, !llvm.ptr, !llvm.ptr) -> i32
    "llvm.return"(%status) : (i32) -> ()
  }) {llvm.emit_c_interface} : () -> ()
}) {gpu.container_module} : () -> ()
