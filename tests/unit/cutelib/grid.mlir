    %q0 = "llvm.sdiv"(%rows, %tile) : (i32, i32) -> i32
    %q1 = "llvm.mul"(%q0, %tile) : (i32, i32) -> i32
    %q2 = "llvm.icmp"(%rows, %q1) <{predicate = 1 : i64}> : (i32, i32) -> i1
    %q3 = "llvm.icmp"(%rows, %zero) <{predicate = 2 : i64}> : (i32, i32) -> i1
    %no = "llvm.mlir.constant"() <{value = false}> : () -> i1
    %q4 = "llvm.icmp"(%q3, %no) <{predicate = 0 : i64}> : (i1, i1) -> i1
    %q5 = "llvm.and"(%q2, %q4) : (i1, i1) -> i1
    %q6 = "llvm.add"(%q0, %one) <{overflowFlags = 0 : i32}> : (i32, i32) -> i32
    %grid = "llvm.select"(%q5, %q6, %q0) : (i1, i32, i32) -> i32
