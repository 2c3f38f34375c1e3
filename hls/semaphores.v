// The semaphores: a counter for each pair (source of completion, unit that waits).
//
//   raise[source * UNITS + unit] adds one, take[source * UNITS + unit] takes one; `above_zero`
//   shows which may be taken in this cycle.
module semaphores #(
  parameter SOURCES = 1,
  parameter UNITS = 1,
  parameter WIDTH = 8
) (
  input wire clk,
  input wire rst,
  input wire [SOURCES*UNITS-1:0] raise,
  input wire [SOURCES*UNITS-1:0] take,
  output wire [SOURCES*UNITS-1:0] above_zero
);
  genvar g;
  generate
    for (g = 0; g < SOURCES * UNITS; g = g + 1) begin : pair
      reg [WIDTH-1:0] count;
      assign above_zero[g] = count != 0;
      always @(posedge clk)
        if (rst) count <= 0;
        else count <= count + raise[g] - take[g];
    end
  endgenerate
endmodule
